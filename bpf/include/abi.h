/* What the BPF programs and their Rust loaders share. src/abi.rs mirrors it; the loader checks the sizes. */
#ifndef MILLRACE_ABI_H
#define MILLRACE_ABI_H

/* Worker cores that can be watched at once: call::Limits::cores_max by default. */
#define RUNQ_CORES_MAX 256
/* Threads of all watched cores: a core has one that works and a few that help. */
#define RUNQ_THREADS_MAX 4096
/* Buckets of the histogram of run-queue delays: bucket b counts delays of 2^b ns to below 2^(b+1) ns, the first
 * one also 0 ns, the last one also all longer ones: 2^39 ns are nine minutes. */
#define RUNQ_BUCKETS 40

/* ---- Sandboxes: account, network, events and device programs. ---- */

/* Counted up with each change of the maps below that an older program or loader would misread. Pins of another
 * version are not used again; the programs behind them are replaced. */
#define ABI_VERSION 3

/* Port ranges of one prefix: as many as the manifest has rules. */
#define RANGES_MAX 64
/* Headers between the IPv6 header and TCP or UDP that are looked behind; a packet with more is dropped. */
#define IPV6_EXTENSIONS_MAX 4
/* Denied attempts told of one sandbox: this many at once, then one per so many ns. All are counted. */
#define DENIED_BURST 10
#define DENIED_EVERY_NS 100000000ULL
/* Bytes of the ring of events: a power of two, 4,000 events. */
#define EVENT_RING_BYTES 262144

/* Constants of one load of the programs. */
struct options {
	/* Of the tracing programs, see struct control. */
	__u64 generation;
	/* Id of the platform's own cgroup: its processes, not those below, are never touched. */
	__u64 platform;
	/* Whether processes below that are of no sandbox are denied everything that has a rule. */
	__u32 strangers_denied;
	__u32 unused;
};

/* A sandbox, found by the id of its cgroup in the v2 tree. Replaced as a whole. */
struct sandbox {
	/* Its row in `usage` and `buckets`. */
	__u32 index;
	/* Its row in `policies`. */
	__u32 function;
	/* Its own Runtime API: always reachable by TCP, neither counted nor limited. Address in network order, IPv4 in
	 * the first word; family 0: none, 4 or 6. */
	__u32 api_family;
	/* Host order. */
	__u32 api_port;
	__u32 api_address[4];
	/* Whether the programs on packets are attached to its group. Without them it may only use a network of its own. */
	__u32 is_guarded;
	__u32 unused;
};

/* The network is its own, with a loopback interface and nothing else: nothing is checked, counted or limited, and no
 * program looks at its packets. */
#define POLICY_OWN_NETWORK 1

/* What the sandboxes of a function may do. Each word is written on its own, by an atomic store into the mapped array.
 * All zero: no address is allowed, no rate is limited. */
struct policy {
	/* In the upper half flags, POLICY_*; in the lower one the list, the first part of the keys of `grants` and
	 * `devices`. One word, so that another list comes into force as a whole. */
	__u64 list;
	/* How long one byte takes at the allowed rate, in 2^-RATE_SHIFT ns; 0: no limit. */
	__u64 egress_pace;
	__u64 ingress_pace;
	/* How far ahead of its rate a sandbox may be, ns. */
	__u64 egress_burst_ns;
	__u64 ingress_burst_ns;
	__u64 unused[3];
};
/* With 20 bits, rates from 1 KiB/s to 100 GB/s fit a __u64 with packets of 1 MiB, to 1% or better. */
#define RATE_SHIFT 20

/* Token buckets of one sandbox, as the time at which all that was let through would be through at the allowed rate
 * (the generic cell rate algorithm): one word each, so that no lock is needed. CLOCK_MONOTONIC, ns. */
struct bucket {
	__u64 egress_until;
	__u64 ingress_until;
	/* The same for events of denied attempts. */
	__u64 denied_until;
	__u64 unused[5];
};

/* Grants to connect or send to, by destination; with GRANT_LISTEN those to listen, by local address. */
#define GRANT_LISTEN 0x100
struct grant_key {
	/* Of all that follows: 64 and the bits of the address. */
	__u32 prefix_bits;
	__u32 list;
	/* IPPROTO_TCP or IPPROTO_UDP, and perhaps GRANT_LISTEN. */
	__u16 kind;
	/* 4 or 6. */
	__u16 family;
	/* Network order; IPv4 in the first four bytes. */
	__u8 address[16];
};

/* Also for destinations on this host itself. */
#define RANGE_LOCAL 1
struct port_range {
	/* Host order, both included. */
	__u16 first;
	__u16 last;
	__u32 flags;
};

/* All grants for addresses of this prefix, those of shorter prefixes included: only the longest one is found. */
struct grant {
	__u32 count;
	__u32 unused;
	struct port_range ranges[RANGES_MAX];
};

/* A device that a list allows beside the default ones. */
struct device_key {
	__u32 list;
	/* As the kernel says it: 1 block, 2 character. */
	__u32 type;
	__u32 major;
	__u32 minor;
};

/* A sandbox has no more slices at once than there are CPUs. */
#define RUNNING_BITS 12

/* What one sandbox used. Counters are never reset, not even for the next sandbox in the same row: readers take
 * differences. Words are changed by atomic additions only, and a cache line has one kind of writer. */
struct usage {
	/* CPU time, in one word so that each reading is consistent. The lower RUNNING_BITS: slices that run now. Above
	 * them: the sum of the ends of slices less the sum of their beginnings, CLOCK_MONOTONIC, ns. CPU time up to now is
	 * that and running * now; all of it modulo 2^(64 - RUNNING_BITS), 52 days. A slice ends so long after its beginning
	 * as the kernel says that it ran: without what interrupts and the host of a virtual machine took. */
	__u64 ran;
	/* Slices that ended. */
	__u64 switches;
	/* Of them, those after which the thread waited for something: it was not interrupted. */
	__u64 waits;
	__u64 unused_cpu[2];
	/* The rest of the line and the next one: up to the end of the last slice of each thread. */
	__u64 page_faults;
	__u64 page_faults_major;
	/* Only if asked for at start. */
	__u64 syscalls;

	/* Bytes that went to or came from block devices on its behalf. */
	__u64 block_read_bytes;
	__u64 block_write_bytes;
	__u64 unused[6];

	/* The network, by IP packets with their headers. What was dropped is in none of the first four. */
	__u64 bytes_out;
	__u64 bytes_in;
	__u64 packets_out;
	__u64 packets_in;
	/* Packets dropped since the rate was exceeded. */
	__u64 dropped_out;
	__u64 dropped_in;
	/* Attempts and packets that no grant covers. */
	__u64 denied;
	/* Events of this sandbox that were not told: too many, or the ring was full. */
	__u64 untold;

	/* How long its threads waited for a CPU before each slice, buckets as above. */
	__u64 delay[RUNQ_BUCKETS];
};

/* What runs on one CPU now, if it is of a sandbox. */
struct slice {
	/* Its row, and one; 0: nothing of a sandbox. */
	__u64 row;
	/* The group that was last looked up on this CPU, its row and one, and the control's version then. */
	__u64 known_group;
	__u64 known_row;
	__u64 known_version;
	/* The thread that came to this CPU at the last switch that was told. */
	__u64 thread;
	/* When its slice began, as `ran` has it. */
	__u64 began;
	/* As the kernel counts them for the thread, when its slice began. */
	__u64 cpu_ns;
	__u64 run_delay;
	__u64 page_faults;
	__u64 page_faults_major;
	__u64 block_read_bytes;
	__u64 block_write_bytes;
};

/* Which generation of the tracing programs counts: two are attached for a moment when a loader replaces them. */
struct control {
	__u64 generation;
	/* Changes whenever a sandbox is admitted or dismissed: what was looked up before does not hold. */
	__u64 version;
};

/* A process, of all that ever were: ids are used again. */
struct process {
	__u64 start_time;
	__u32 tgid;
	__u32 unused;
};
/* Processes whose end was told lately. Between two threads of one that end at once few others end. */
#define ENDED_MAX 1024

#define EVENT_OOM 1
#define EVENT_SECCOMP 2
#define EVENT_EXIT 3
#define EVENT_DENIED 4

#define OPERATION_CONNECT 1
#define OPERATION_SEND 2
#define OPERATION_BIND 3
#define OPERATION_SOCKET 4
#define OPERATION_ACCEPT 5
#define OPERATION_RECEIVE 6

/* One event. What a kind does not use is zero. */
struct event {
	__u32 kind;
	/* Row of the sandbox. */
	__u32 index;
	/* The process (the kernel's tgid), as the host numbers it. */
	__u32 pid;
	/* Of an exit: as waitpid gives it. Of seccomp: the number of the system call. */
	__u32 code;
	/* Of seccomp: AUDIT_ARCH_*. */
	__u32 arch;
	/* Of a denied attempt: OPERATION_*, and what it was for. */
	__u32 operation;
	__u32 family;
	__u32 protocol;
	/* Host order. */
	__u32 port;
	__u32 unused;
	/* Network order, as above. */
	__u32 address[4];
};

/* ---- Worker cores: the runq programs. ---- */

/* What one worker core did, on one CPU. All counters count since it is watched. */
struct runq_core {
	/* On a CPU, finished slices only, ns. */
	__u64 cpu_ns;
	/* How often one of its threads left a CPU. */
	__u64 switches;
	/* How long its threads waited for a CPU, each time they could have run. */
	__u64 delay[RUNQ_BUCKETS];
};

/* Where one thread stands. Times are CLOCK_MONOTONIC, ns; zero if it does not hold. */
struct runq_thread {
	/* Its worker core. */
	__u32 tgid;
	__u32 unused;
	/* Since when it is on a CPU. */
	__u64 running_since;
	/* Since when it could run and waits for a CPU. */
	__u64 waiting_since;
};

#endif
