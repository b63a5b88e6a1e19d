// What happens to the processes of sandboxes: killed for want of memory, ended by seccomp, ended.

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "abi.h"
#include "maps.h"
#include "tracing.h"
#include "tell.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// Whether it is told for the first time that this process ends. Two last threads that end at once both see that no other
// one is left.
static __always_inline bool is_first(struct task_struct *task)
{
	struct process process = { .start_time = task->group_leader->start_time, .tgid = task->tgid };
	__u32 told = 1;
	return !bpf_map_update_elem(&ended, &process, &told, BPF_NOEXIST);
}

// In the exiting thread. Told once of each process: by its last thread. What the kernel killed for want of memory it has
// marked so; its own tracepoint for that (mark_victim) does not give the task before Linux 6.8.
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	if (!is_active())
		return 0;
	struct sandbox *sandbox = sandbox_of(task);
	if (!sandbox)
		return 0;
	struct signal_struct *signal = task->signal;
	if (signal->live.counter > 0 || !is_first(task))
		return 0;
	struct event *event;
	if (signal->oom_mm) {
		event = event_begin(EVENT_OOM, sandbox->index, task->tgid);
		if (event)
			event_end(event);
	}
	event = event_begin(EVENT_EXIT, sandbox->index, task->tgid);
	if (!event)
		return 0;
	bool together = signal->flags & SIGNAL_GROUP_EXIT;
	event->code = together ? signal->group_exit_code : task->exit_code;
	event_end(event);
	return 0;
}

SEC("tp_btf/signal_generate")
int BPF_PROG(on_signal, int number, struct kernel_siginfo *info, struct task_struct *task)
{
	if (number != SIGSYS || (unsigned long)info <= SEND_SIG_PRIV || !is_active())
		return 0;
	if (BPF_CORE_READ(info, si_code) != SYS_SECCOMP)
		return 0;
	struct sandbox *sandbox = sandbox_of(task);
	if (!sandbox)
		return 0;
	struct event *event = event_begin(EVENT_SECCOMP, sandbox->index, task->tgid);
	if (!event)
		return 0;
	event->code = BPF_CORE_READ(info, _sifields._sigsys._syscall);
	event->arch = BPF_CORE_READ(info, _sifields._sigsys._arch);
	event_end(event);
	return 0;
}
