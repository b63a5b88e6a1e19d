/* What the programs on tracepoints share: which of two loads counts, and whose a thread is. */
#ifndef MILLRACE_TRACING_H
#define MILLRACE_TRACING_H

/* Whether this load of the programs counts: another one may be attached beside it for a moment. */
static __always_inline bool is_active(void)
{
	__u32 first = 0;
	struct control *now = bpf_map_lookup_elem(&control, &first);
	return now && now->generation == options.generation;
}

/* NULL if it is of none. Threads of the kernel and those of the root group, most of a host, are not looked up. */
static __always_inline struct sandbox *sandbox_of(struct task_struct *task)
{
	if (task->flags & PF_KTHREAD)
		return NULL;
	struct cgroup *group = task->cgroups->dfl_cgrp;
	if (!group->level)
		return NULL;
	return sandbox_by_id(group->kn->id);
}

#endif
