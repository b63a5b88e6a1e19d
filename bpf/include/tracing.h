/* What the programs on tracepoints share: which of two loads counts, and whose a thread is. */
#ifndef MILLRACE_TRACING_H
#define MILLRACE_TRACING_H

/* NULL if this load of the programs does not count: another one may be attached beside it for a moment. */
static __always_inline struct control *control_if_active(void)
{
	__u32 first = 0;
	struct control *now = bpf_map_lookup_elem(&control, &first);
	return now && now->generation == options.generation ? now : NULL;
}

static __always_inline bool is_active(void)
{
	return control_if_active() != NULL;
}

/* The id of its group in the v2 tree; 0 for threads of the kernel and those of the root group, most of a host, which
 * are not looked up. */
static __always_inline __u64 group_of(struct task_struct *task)
{
	if (task->flags & PF_KTHREAD)
		return 0;
	struct cgroup *group = task->cgroups->dfl_cgrp;
	return group->level ? group->kn->id : 0;
}

/* NULL if it is of none. */
static __always_inline struct sandbox *sandbox_of(struct task_struct *task)
{
	__u64 group = group_of(task);
	return group ? sandbox_by_id(group) : NULL;
}

#endif
