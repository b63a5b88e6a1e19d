// How worker cores get their CPUs: CPU time, context switches, and how long their threads wait in the run queue.
//
// Runs at each wake-up and each context switch of the host, and returns after one map look-up for a thread that is
// none of a worker core. Counters are per CPU: no atomic instruction, and the reader adds them up.

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "abi.h"
#include "histogram.h"
#include "missed.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// The worker cores to watch, by process id (the kernel's tgid). The loader puts them in.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, RUNQ_CORES_MAX);
	__type(key, __u32);
	__type(value, struct runq_core);
} cores SEC(".maps");

// Their threads, by thread id (the kernel's pid), from their first event on.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, RUNQ_THREADS_MAX);
	__type(key, __u32);
	__type(value, struct runq_thread);
} threads SEC(".maps");

static __always_inline unsigned int state_of(struct task_struct *task)
{
	if (bpf_core_field_exists(task->__state))
		return BPF_CORE_READ(task, __state);
	return BPF_CORE_READ((struct task_struct___before_5_14 *)task, state);
}

// The thread's state, made at its first event; NULL if there is no room for more threads.
static __always_inline struct runq_thread *thread_of(struct task_struct *task)
{
	__u32 tid = task->pid;
	struct runq_thread *known = bpf_map_lookup_elem(&threads, &tid);
	if (known)
		return known;
	struct runq_thread fresh = { .tgid = task->tgid };
	bpf_map_update_elem(&threads, &tid, &fresh, BPF_ANY);
	return bpf_map_lookup_elem(&threads, &tid);
}

static __always_inline struct runq_core *core_of(struct task_struct *task)
{
	__u32 tgid = task->tgid;
	return bpf_map_lookup_elem(&cores, &tgid);
}

static __always_inline void leaves(struct task_struct *task, __u64 now)
{
	struct runq_core *core = core_of(task);
	if (!core)
		return;
	struct runq_thread *thread = thread_of(task);
	if (!thread)
		return;
	core->switches += 1;
	core->cpu_ns += thread->running_since ? now - thread->running_since : ran_since_picked(task);
	thread->running_since = 0;
	unsigned int state = state_of(task);
	// Still runnable: it was preempted or yielded, and waits from now on.
	thread->waiting_since = state == TASK_RUNNING ? now : 0;
	if (state & TASK_DEAD) {
		__u32 tid = task->pid;
		bpf_map_delete_elem(&threads, &tid);
	}
}

static __always_inline void enters(struct task_struct *task, __u64 now)
{
	struct runq_core *core = core_of(task);
	if (!core)
		return;
	struct runq_thread *thread = thread_of(task);
	if (!thread)
		return;
	if (thread->waiting_since) {
		__u32 bucket = bucket_of(now - thread->waiting_since);
		if (bucket < RUNQ_BUCKETS) // Said again for the verifier.
			core->delay[bucket] += 1;
	}
	thread->waiting_since = 0;
	thread->running_since = now;
}

static __always_inline int woken(struct task_struct *task)
{
	if (!core_of(task))
		return 0;
	struct runq_thread *thread = thread_of(task);
	if (thread && !thread->running_since)
		thread->waiting_since = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u64 now = bpf_ktime_get_ns();
	leaves(prev, now);
	enters(next, now);
	return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_wakeup, struct task_struct *task)
{
	return woken(task);
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_wakeup_new, struct task_struct *task)
{
	return woken(task);
}
