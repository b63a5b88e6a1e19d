// What each sandbox uses: CPU time, context switches, run-queue delays, page faults, bytes of block devices.
//
// One program at each context switch, none at wake-ups, page faults or I/O: the kernel counts those for each thread
// already, and what it counted between the beginning and the end of a slice is the slice's. The row that a slice counts
// for is kept per CPU from its beginning on, so each switch costs one look-up, and none if the next thread is the
// kernel's or of the root group. Sandboxes run on several CPUs at once: additions are atomic.

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "abi.h"
#include "histogram.h"
#include "maps.h"
#include "tracing.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// An addition that everything before it precedes, and that precedes everything after it: the one with a result is
// ordered on all machines.
static __always_inline void count_in_order(__u64 *counter)
{
	__u64 before = __sync_fetch_and_add(counter, 1);
	asm volatile("" : : "r"(before) : "memory");
}

static __always_inline void begins(struct slice *slice, struct task_struct *task, __u32 index, __u64 now)
{
	struct usage *usage = usage_of(index);
	if (!usage)
		return;
	slice->row = (__u64)index + 1;
	// The delay before this slice is added after this program, when the thread is on the CPU.
	if (bpf_core_field_exists(task->sched_info))
		slice->run_delay = task->sched_info.run_delay;
	slice->page_faults = task->min_flt;
	slice->page_faults_major = task->maj_flt;
	if (bpf_core_field_exists(task->ioac.read_bytes)) {
		slice->block_read_bytes = task->ioac.read_bytes;
		slice->block_write_bytes = task->ioac.write_bytes;
	}
	count_in_order(&usage->entering);
	count(&usage->ran_ns, -now);
	count_in_order(&usage->entered);
}

static __always_inline void ends(struct slice *slice, struct task_struct *task, __u64 now)
{
	struct usage *usage = usage_of(slice->row - 1);
	if (!usage)
		return;
	count_in_order(&usage->leaving);
	count(&usage->ran_ns, now);
	count_in_order(&usage->left);
	__u64 major = task->maj_flt - slice->page_faults_major;
	__u64 faults = task->min_flt - slice->page_faults + major;
	if (faults)
		count(&usage->page_faults, faults);
	if (major)
		count(&usage->page_faults_major, major);
	if (bpf_core_field_exists(task->sched_info)) {
		__u32 bucket = bucket_of(task->sched_info.run_delay - slice->run_delay);
		if (bucket < RUNQ_BUCKETS) // Said again for the verifier.
			count(&usage->delay[bucket], 1);
	}
	if (bpf_core_field_exists(task->ioac.read_bytes)) {
		__u64 read = task->ioac.read_bytes - slice->block_read_bytes;
		__u64 written = task->ioac.write_bytes - slice->block_write_bytes;
		if (read)
			count(&usage->block_read_bytes, read);
		if (written)
			count(&usage->block_write_bytes, written);
	}
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	if (!is_active())
		return 0;
	__u32 first = 0;
	struct slice *slice = bpf_map_lookup_elem(&slices, &first);
	if (!slice)
		return 0;
	struct sandbox *sandbox = sandbox_of(next);
	if (!slice->row && !sandbox)
		return 0;
	__u64 now = bpf_ktime_get_ns();
	if (slice->row)
		ends(slice, prev, now);
	slice->row = 0;
	if (sandbox)
		begins(slice, next, sandbox->index, now);
	return 0;
}

// Only loaded if asked for: it is called at each system call of the host.
SEC("tp_btf/sys_enter")
int BPF_PROG(on_syscall, void *registers, long number)
{
	__u32 first = 0;
	struct slice *slice = bpf_map_lookup_elem(&slices, &first);
	if (!slice || !slice->row || !is_active())
		return 0;
	struct usage *usage = usage_of(slice->row - 1);
	if (usage)
		count(&usage->syscalls, 1);
	return 0;
}
