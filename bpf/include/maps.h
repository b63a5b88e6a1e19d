/* The maps that all programs of sandboxes share: pinned by these names, so that the first object that is loaded makes
 * them and all others, of this process and of the next, find them. The loader sets the sizes that are 1 here. */
#ifndef MILLRACE_MAPS_H
#define MILLRACE_MAPS_H

/* Set by the loader before the programs are loaded: branches that an option closes are not even compiled. */
const volatile struct options options = {};

/* By the id of their cgroup. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct sandbox);
} sandboxes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct policy);
} policies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct grant_key);
	__type(value, struct grant);
} grants SEC(".maps");

/* What may be done: BPF_DEVCG_ACC_*. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct device_key);
	__type(value, __u32);
} devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bucket);
} buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct usage);
} usages SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slice);
} slices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, ENDED_MAX);
	__type(key, struct process);
	__type(value, __u32);
} ended SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENT_RING_BYTES);
} events SEC(".maps");

static __always_inline struct sandbox *sandbox_by_id(__u64 id)
{
	return bpf_map_lookup_elem(&sandboxes, &id);
}

/* Whether a process in this group, which is no sandbox, is denied what has rules. */
static __always_inline bool stranger_denied(__u64 id)
{
	return options.strangers_denied && id != options.platform;
}

static __always_inline struct usage *usage_of(__u32 index)
{
	return bpf_map_lookup_elem(&usages, &index);
}

static __always_inline void count(__u64 *counter, __u64 more)
{
	__sync_fetch_and_add(counter, more);
}

#endif
