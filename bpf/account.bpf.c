// What each sandbox uses: CPU time, context switches, run-queue delays, page faults, bytes of block devices.
//
// One program at each context switch, none at wake-ups, page faults or I/O: the kernel counts those for each thread
// already, and what it counted between the beginning and the end of a slice is the slice's. The row that a slice counts
// for is kept per CPU from its beginning on, and so is the group that was last looked up there: a switch costs a look-up
// only if another group comes to the CPU, and none if the next thread is the kernel's or of the root group. Sandboxes
// run on several CPUs at once: additions are atomic, one for a beginning and two or three for an end.

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "abi.h"
#include "histogram.h"
#include "maps.h"
#include "missed.h"
#include "tracing.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline void begins(struct slice *slice, struct task_struct *task, __u64 row, __u64 now)
{
	struct usage *usage = usage_of(row - 1);
	if (!usage)
		return;
	slice->row = row;
	slice->began = now;
	if (bpf_core_field_exists(task->se.sum_exec_runtime))
		slice->cpu_ns = task->se.sum_exec_runtime;
	// The delay before this slice is added after this program, when the thread is on the CPU.
	if (bpf_core_field_exists(task->sched_info))
		slice->run_delay = task->sched_info.run_delay;
	slice->page_faults = task->min_flt;
	slice->page_faults_major = task->maj_flt;
	if (bpf_core_field_exists(task->ioac.read_bytes)) {
		slice->block_read_bytes = task->ioac.read_bytes;
		slice->block_write_bytes = task->ioac.write_bytes;
	}
	count(&usage->ran, 1 - (now << RUNNING_BITS));
}

static __always_inline bool waits(struct task_struct *task)
{
	if (bpf_core_field_exists(task->__state))
		return task->__state != TASK_RUNNING;
	return BPF_CORE_READ((struct task_struct___before_5_14 *)task, state) != TASK_RUNNING;
}

static __always_inline void ends(struct slice *slice, struct task_struct *task, bool preempted, __u64 now)
{
	struct usage *usage = usage_of(slice->row - 1);
	if (!usage)
		return;
	__u64 end = now;
	if (bpf_core_field_exists(task->se.sum_exec_runtime))
		end = slice->began + task->se.sum_exec_runtime - slice->cpu_ns;
	count(&usage->ran, (end << RUNNING_BITS) - 1);
	count(&usage->switches, 1);
	if (!preempted && waits(task))
		count(&usage->waits, 1);
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

// The row that this thread counts for, and one; 0: none.
static __always_inline __u64 row_of(struct slice *slice, const struct control *control, struct task_struct *task)
{
	__u64 group = group_of(task);
	if (!group)
		return 0;
	// Read first: a sandbox that is admitted or dismissed meanwhile is looked up again next time.
	__u64 version = *(volatile const __u64 *)&control->version;
	if (slice->known_group == group && slice->known_version == version)
		return slice->known_row;
	struct sandbox *sandbox = sandbox_by_id(group);
	slice->known_group = group;
	slice->known_version = version;
	slice->known_row = sandbox ? (__u64)sandbox->index + 1 : 0;
	return slice->known_row;
}

// The thread that leaves came without a switch that was told: its slice is what the kernel counted. What it did in it
// besides is not known, nor is the end of the slice that it may have ended: that counts up to where this one began.
static __always_inline void ends_untold(struct slice *slice, const struct control *control, struct task_struct *task,
					__u64 now)
{
	__u64 ran = ran_since_picked(task);
	if (slice->row) {
		struct usage *before = usage_of(slice->row - 1);
		if (before) {
			count(&before->ran, ((now - ran) << RUNNING_BITS) - 1);
			count(&before->switches, 1);
		}
		slice->row = 0;
	}
	__u64 row = row_of(slice, control, task);
	struct usage *usage = row ? usage_of(row - 1) : NULL;
	if (!usage)
		return;
	count(&usage->ran, ran << RUNNING_BITS);
	count(&usage->switches, 1);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u32 first = 0;
	struct control *control = control_if_active();
	struct slice *slice = bpf_map_lookup_elem(&slices, &first);
	if (!control || !slice)
		return 0;
	if (slice->thread != prev->pid)
		ends_untold(slice, control, prev, bpf_ktime_get_ns());
	slice->thread = next->pid;
	__u64 row = row_of(slice, control, next);
	if (!slice->row && !row)
		return 0;
	__u64 now = bpf_ktime_get_ns();
	if (slice->row)
		ends(slice, prev, preempt, now);
	slice->row = 0;
	if (row)
		begins(slice, next, row, now);
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
