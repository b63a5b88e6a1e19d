/* Events into the ring. */
#ifndef MILLRACE_TELL_H
#define MILLRACE_TELL_H

/* An event of this kind and sandbox, all else zero; NULL if the ring is full, which is counted. */
static __always_inline struct event *event_begin(__u32 kind, __u32 index, __u32 pid)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		struct usage *usage = usage_of(index);
		if (usage)
			count(&usage->untold, 1);
		return NULL;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->index = index;
	event->pid = pid;
	return event;
}

static __always_inline void event_end(struct event *event)
{
	bpf_ringbuf_submit(event, 0);
}

#endif
