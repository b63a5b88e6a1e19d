/* What to do about switches that no program was told of. The kernel does not call the tracepoint at each switch: seen on
 * Linux 6.18, where some threads of a virtual machine's own agent leave the CPU without it, a few times a second. Whoever
 * comes to the CPU then has no beginning. */
#ifndef MILLRACE_MISSED_H
#define MILLRACE_MISSED_H

/* CPU time since the thread was last picked to run, as the kernel counts it, ns; 0 for threads of real-time classes and
 * where the kernel keeps no such count. For a thread that leaves the CPU now: its whole slice. */
static __always_inline __u64 ran_since_picked(struct task_struct *task)
{
	if (!bpf_core_field_exists(task->se.prev_sum_exec_runtime))
		return 0;
	return task->se.sum_exec_runtime - task->se.prev_sum_exec_runtime;
}

#endif
