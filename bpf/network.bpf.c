// With whom sandboxes may speak, how fast, and how much they did.
//
// Rules are checked when a connection or a datagram is asked for, by the destination before any routing; packets are
// counted and limited, and checked again only where the first check cannot know: whether a destination is this host
// itself, and what comes from outside. A drop for the rate is told to TCP as congestion, so that it slows down.

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "abi.h"
#include "maps.h"
#include "tell.h"
#include "packet.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// What a program on packets answers. Congestion is for egress only.
#define DROP 0
#define PASS 1
#define DROP_AS_CONGESTION 2

static __always_inline bool is_own_network(struct policy *policy)
{
	return policy->list >> 32 & POLICY_OWN_NETWORK;
}

static __always_inline bool is_same(const struct end *end, __u32 family, const struct sandbox *sandbox)
{
	if (sandbox->api_family != family || end->port != sandbox->api_port ||
	    end->address[0] != sandbox->api_address[0])
		return false;
	return family == 4 || (end->address[1] == sandbox->api_address[1] &&
			       end->address[2] == sandbox->api_address[2] &&
			       end->address[3] == sandbox->api_address[3]);
}

// Whether a grant of this list covers the address and port; `local`: and says so of this host itself. Not inlined: it
// is verified once for all that call it.
static __noinline bool is_granted(struct grant_key *key, __u32 port, bool local)
{
	struct grant *grant = bpf_map_lookup_elem(&grants, key);
	if (!grant)
		return false;
	for (__u32 i = 0; i < RANGES_MAX; i++) {
		if (i >= grant->count)
			break;
		struct port_range *range = &grant->ranges[i];
		if (port >= range->first && port <= range->last && (!local || (range->flags & RANGE_LOCAL)))
			return true;
	}
	return false;
}

static __always_inline bool covers(struct policy *policy, __u32 kind, __u32 family, const struct end *end, bool local)
{
	struct grant_key key = {
		.prefix_bits = 64 + (family == 4 ? 32 : 128),
		.list = (__u32)policy->list,
		.kind = kind,
		.family = family,
	};
	__builtin_memcpy(key.address, end->address, sizeof(key.address));
	return is_granted(&key, end->port, local);
}

// Lets `bytes` through if the bucket is not further ahead than the burst; what it owes it pays by time. One word: two
// CPUs that add at once may refuse one packet too many, never let one through too many. The clock is the one of the
// last tick, a quarter of the price: a burst may be longer by a tick, the rate is not.
static __always_inline bool is_in_rate(__u64 *until, __u64 pace, __u64 burst_ns, __u32 bytes)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	__u64 cost = bytes * pace >> RATE_SHIFT;
	__u64 before = *(volatile __u64 *)until;
	if (before > now + burst_ns)
		return false;
	if (before < now && __sync_val_compare_and_swap(until, before, now + cost) == before)
		return true;
	before = __sync_fetch_and_add(until, cost);
	if (before <= now + burst_ns)
		return true;
	__sync_fetch_and_add(until, -cost);
	return false;
}

// Counts a denied attempt, and tells it unless there were too many.
static __noinline void deny(__u32 index, __u32 pid, __u32 operation, __u32 family_and_protocol, struct end *end)
{
	struct usage *usage = usage_of(index);
	struct bucket *bucket = bpf_map_lookup_elem(&buckets, &index);
	if (!usage || !bucket || !end)
		return;
	count(&usage->denied, 1);
	// One byte at one byte per DENIED_EVERY_NS.
	__u64 burst_ns = (DENIED_BURST - 1) * DENIED_EVERY_NS;
	if (!is_in_rate(&bucket->denied_until, DENIED_EVERY_NS << RATE_SHIFT, burst_ns, 1)) {
		count(&usage->untold, 1);
		return;
	}
	struct event *event = event_begin(EVENT_DENIED, index, pid);
	if (!event)
		return;
	event->operation = operation;
	event->family = family_and_protocol >> 16;
	event->protocol = family_and_protocol & 0xffff;
	event->port = end->port;
	__builtin_memcpy(event->address, end->address, sizeof(event->address));
	event_end(event);
}

#define FAMILY_AND_PROTOCOL(family, protocol) ((family) << 16 | ((protocol) & 0xffff))

// Attached to the groups of sandboxes that use the host's network, not to the platform's: a sandbox with a network of its
// own sends to itself only, and pays nothing for it.
SEC("cgroup_skb/egress")
int on_egress(struct __sk_buff *skb)
{
	__u64 id = bpf_skb_cgroup_id(skb);
	struct sandbox *sandbox = sandbox_by_id(id);
	if (!sandbox)
		return stranger_denied(id) ? DROP : PASS;
	__u32 index = sandbox->index, function = sandbox->function;
	struct policy *policy = bpf_map_lookup_elem(&policies, &function);
	struct usage *usage = usage_of(index);
	struct bucket *bucket = bpf_map_lookup_elem(&buckets, &index);
	if (!policy || !usage || !bucket)
		return DROP;
	if (is_own_network(policy))
		return PASS;
	struct flow flow = {};
	if (read_flow(skb, &flow)) {
		deny(index, 0, OPERATION_SEND, FAMILY_AND_PROTOCOL(flow.family, flow.protocol), &flow.destination);
		return DROP;
	}
	if (flow.protocol == IPPROTO_TCP &&
	    (is_same(&flow.destination, flow.family, sandbox) || is_same(&flow.source, flow.family, sandbox)))
		return PASS;
	bool asks = flow.opens || flow.protocol == IPPROTO_UDP;
	if (asks && skb->ifindex == LOOPBACK_IFINDEX &&
	    !covers(policy, flow.protocol, flow.family, &flow.destination, true)) {
		__u32 operation = flow.opens ? OPERATION_CONNECT : OPERATION_SEND;
		deny(index, 0, operation, FAMILY_AND_PROTOCOL(flow.family, flow.protocol), &flow.destination);
		return DROP;
	}
	__u64 pace = policy->egress_pace;
	if (pace && !is_in_rate(&bucket->egress_until, pace, policy->egress_burst_ns, skb->len)) {
		count(&usage->dropped_out, 1);
		return DROP_AS_CONGESTION;
	}
	count(&usage->bytes_out, skb->len);
	count(&usage->packets_out, 1);
	return PASS;
}

// Whether what comes from outside may: answers of a TCP connection always, a new one to a port that is granted, a
// datagram from where the sandbox may send to or to a port that is granted.
static __always_inline bool may_enter(struct __sk_buff *skb, struct policy *policy, const struct flow *flow)
{
	if (flow->protocol == IPPROTO_TCP && !flow->opens)
		return true;
	bool local = skb->ifindex == LOOPBACK_IFINDEX;
	if (flow->protocol == IPPROTO_UDP && covers(policy, IPPROTO_UDP, flow->family, &flow->source, local))
		return true;
	return covers(policy, flow->protocol | GRANT_LISTEN, flow->family, &flow->destination, false);
}

SEC("cgroup_skb/ingress")
int on_ingress(struct __sk_buff *skb)
{
	__u64 id = bpf_skb_cgroup_id(skb);
	struct sandbox *sandbox = sandbox_by_id(id);
	if (!sandbox)
		return stranger_denied(id) ? DROP : PASS;
	__u32 index = sandbox->index, function = sandbox->function;
	struct policy *policy = bpf_map_lookup_elem(&policies, &function);
	struct usage *usage = usage_of(index);
	struct bucket *bucket = bpf_map_lookup_elem(&buckets, &index);
	if (!policy || !usage || !bucket)
		return DROP;
	if (is_own_network(policy))
		return PASS;
	struct flow flow = {};
	if (read_flow(skb, &flow)) {
		deny(index, 0, OPERATION_RECEIVE, FAMILY_AND_PROTOCOL(flow.family, flow.protocol), &flow.source);
		return DROP;
	}
	if (flow.protocol == IPPROTO_TCP &&
	    (is_same(&flow.source, flow.family, sandbox) || is_same(&flow.destination, flow.family, sandbox)))
		return PASS;
	if (!may_enter(skb, policy, &flow)) {
		__u32 operation = flow.opens ? OPERATION_ACCEPT : OPERATION_RECEIVE;
		struct end *end = flow.opens ? &flow.destination : &flow.source;
		deny(index, 0, operation, FAMILY_AND_PROTOCOL(flow.family, flow.protocol), end);
		return DROP;
	}
	__u64 pace = policy->ingress_pace;
	if (pace && !is_in_rate(&bucket->ingress_until, pace, policy->ingress_burst_ns, skb->len)) {
		count(&usage->dropped_in, 1);
		return DROP;
	}
	count(&usage->bytes_in, skb->len);
	count(&usage->packets_in, 1);
	return PASS;
}

// Whether the current process may do this with this address: 1, or 0 for EPERM.
static __always_inline int may(struct bpf_sock_addr *ctx, __u32 family, struct end *end, __u32 operation)
{
	__u64 id = bpf_get_current_cgroup_id();
	struct sandbox *sandbox = sandbox_by_id(id);
	if (!sandbox)
		return !stranger_denied(id);
	__u32 index = sandbox->index, function = sandbox->function;
	struct policy *policy = bpf_map_lookup_elem(&policies, &function);
	if (!policy)
		return 0;
	if (is_own_network(policy))
		return 1;
	__u32 protocol = ctx->protocol;
	if (!sandbox->is_guarded)
		goto denied;
	bool local = false;
	if (operation == OPERATION_BIND) {
		// Any free port: nobody reaches it from outside, see may_enter.
		if (!end->port)
			return 1;
		if (covers(policy, protocol | GRANT_LISTEN, family, end, false))
			return 1;
	} else {
		if (protocol == IPPROTO_TCP && is_same(end, family, sandbox))
			return 1;
		__u32 top = bpf_ntohl(end->address[0]) >> 24;
		if (family == 4)
			local = top == 0 || top == 127;
		else
			local = !end->address[0] && !end->address[1] && !end->address[2] &&
				bpf_ntohl(end->address[3]) <= 1;
		if (covers(policy, protocol, family, end, local))
			return 1;
	}
denied:
	deny(index, bpf_get_current_pid_tgid() >> 32, operation, FAMILY_AND_PROTOCOL(family, protocol), end);
	return 0;
}

static __always_inline int may_ipv4(struct bpf_sock_addr *ctx, __u32 operation)
{
	struct end end = { .address = { ctx->user_ip4 }, .port = bpf_ntohs(ctx->user_port) };
	// To connect to 0.0.0.0 is to connect to this host.
	if (operation != OPERATION_BIND && !end.address[0])
		end.address[0] = bpf_htonl(0x7f000001);
	return may(ctx, 4, &end, operation);
}

static __always_inline int may_ipv6(struct bpf_sock_addr *ctx, __u32 operation)
{
	struct end end = { .port = bpf_ntohs(ctx->user_port) };
	end.address[0] = ctx->user_ip6[0];
	end.address[1] = ctx->user_ip6[1];
	end.address[2] = ctx->user_ip6[2];
	end.address[3] = ctx->user_ip6[3];
	if (end.address[0] || end.address[1])
		return may(ctx, 6, &end, operation);
	// An IPv4 address in IPv6 clothes.
	if (end.address[2] == bpf_htonl(0xffff)) {
		end.address[0] = end.address[3];
		end.address[2] = 0;
		end.address[3] = 0;
		if (operation != OPERATION_BIND && !end.address[0])
			end.address[0] = bpf_htonl(0x7f000001);
		return may(ctx, 4, &end, operation);
	}
	if (operation != OPERATION_BIND && !end.address[2] && !end.address[3])
		end.address[3] = bpf_htonl(1);
	return may(ctx, 6, &end, operation);
}

SEC("cgroup/connect4")
int on_connect4(struct bpf_sock_addr *ctx)
{
	return may_ipv4(ctx, OPERATION_CONNECT);
}

SEC("cgroup/connect6")
int on_connect6(struct bpf_sock_addr *ctx)
{
	return may_ipv6(ctx, OPERATION_CONNECT);
}

SEC("cgroup/sendmsg4")
int on_sendmsg4(struct bpf_sock_addr *ctx)
{
	return may_ipv4(ctx, OPERATION_SEND);
}

SEC("cgroup/sendmsg6")
int on_sendmsg6(struct bpf_sock_addr *ctx)
{
	return may_ipv6(ctx, OPERATION_SEND);
}

SEC("cgroup/bind4")
int on_bind4(struct bpf_sock_addr *ctx)
{
	return may_ipv4(ctx, OPERATION_BIND);
}

SEC("cgroup/bind6")
int on_bind6(struct bpf_sock_addr *ctx)
{
	return may_ipv6(ctx, OPERATION_BIND);
}

// Whether the programs on packets see what a sandbox sends, or it has a network of its own and nowhere to send to.
static __always_inline bool is_held(const struct sandbox *sandbox)
{
	if (sandbox->is_guarded)
		return true;
	__u32 function = sandbox->function;
	struct policy *policy = bpf_map_lookup_elem(&policies, &function);
	return policy && is_own_network(policy);
}

// TCP and UDP are all that the checks above know; the kernel asks for IPv4 and IPv6 sockets only. Where nothing would
// look at the packets there are no sockets at all.
SEC("cgroup/sock_create")
int on_socket(struct bpf_sock *ctx)
{
	__u64 id = bpf_get_current_cgroup_id();
	struct sandbox *sandbox = sandbox_by_id(id);
	if (!sandbox)
		return !stranger_denied(id);
	bool is_tcp = ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP;
	bool is_udp = ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP;
	if ((is_tcp || is_udp) && is_held(sandbox))
		return 1;
	struct end none = {};
	deny(sandbox->index, bpf_get_current_pid_tgid() >> 32, OPERATION_SOCKET, ctx->protocol & 0xffff, &none);
	return 0;
}
