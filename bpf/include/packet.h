/* Who speaks with whom in an IP packet. */
#ifndef MILLRACE_PACKET_H
#define MILLRACE_PACKET_H

/* Addresses in network order, IPv4 in the first word; ports in host order. */
struct end {
	__u32 address[4];
	__u32 port;
};

struct flow {
	/* 4 or 6. */
	__u32 family;
	/* IPPROTO_TCP or IPPROTO_UDP. */
	__u32 protocol;
	/* Whether it asks for a TCP connection. */
	bool opens;
	struct end source;
	struct end destination;
};

struct ipv4_header {
	__u8 version_and_words;
	__u8 service;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};
/* In `fragment`: the offset. Later parts have no ports; sockets see whole packets, so nobody honest sends us any. */
#define IPV4_FRAGMENT_OFFSET 0x1fff

struct ipv6_header {
	__be32 version_and_flow;
	__be16 length;
	__u8 next;
	__u8 hops;
	__be32 source[4];
	__be32 destination[4];
};

struct ipv6_extension {
	__u8 next;
	/* Less the first 8 bytes, in units of 8. */
	__u8 length;
};

struct tcp_beginning {
	__be16 source;
	__be16 destination;
	__u8 unused[9];
	__u8 flags;
};
#define TCP_SYN 0x02
#define TCP_ACK 0x10

static __always_inline int read_ports(struct __sk_buff *skb, __u32 offset, struct flow *flow)
{
	struct tcp_beginning tcp = {};
	if (flow->protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)))
			return -1;
	} else if (flow->protocol == IPPROTO_UDP) {
		if (bpf_skb_load_bytes(skb, offset, &tcp, 4))
			return -1;
	} else {
		return -1;
	}
	flow->source.port = bpf_ntohs(tcp.source);
	flow->destination.port = bpf_ntohs(tcp.destination);
	flow->opens = (tcp.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	return 0;
}

static __always_inline int read_ipv4(struct __sk_buff *skb, struct flow *flow)
{
	struct ipv4_header ip;
	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
		return -1;
	__u32 bytes = (ip.version_and_words & 0xf) * 4;
	if (ip.version_and_words >> 4 != 4 || bytes < sizeof(ip) || (ip.fragment & bpf_htons(IPV4_FRAGMENT_OFFSET)))
		return -1;
	flow->family = 4;
	flow->protocol = ip.protocol;
	flow->source.address[0] = ip.source;
	flow->destination.address[0] = ip.destination;
	return read_ports(skb, bytes, flow);
}

static __always_inline int read_ipv6(struct __sk_buff *skb, struct flow *flow)
{
	struct ipv6_header ip;
	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
		return -1;
	if ((bpf_ntohl(ip.version_and_flow) >> 28) != 6)
		return -1;
	flow->family = 6;
	__builtin_memcpy(flow->source.address, ip.source, sizeof(ip.source));
	__builtin_memcpy(flow->destination.address, ip.destination, sizeof(ip.destination));
	__u32 offset = sizeof(ip);
	__u8 next = ip.next;
	for (int i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS)
			break;
		struct ipv6_extension extension;
		if (bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
			return -1;
		next = extension.next;
		offset += (extension.length + 1) * 8;
	}
	flow->protocol = next;
	return read_ports(skb, offset, flow);
}

/* Zero if it could be read: whole IPv4 or IPv6 packets of TCP and UDP can. */
static __always_inline int read_flow(struct __sk_buff *skb, struct flow *flow)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return read_ipv4(skb, flow);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return read_ipv6(skb, flow);
	return -1;
}

#endif
