/* The little of the kernel's types that our programs read, written by hand: a vmlinux.h would tie the build to the
 * kernel of the machine that builds. The loader moves each access to where the running kernel has the field (CO-RE). */
#ifndef MILLRACE_KERNEL_H
#define MILLRACE_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0

/* From enum bpf_map_type and the flags of bpf_map_update_elem: numbers of the kernel's ABI. */
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_HASH 5
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_MAP_TYPE_LPM_TRIE 11
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_F_NO_PREALLOC 1
#define BPF_F_MMAPABLE 1024
#define BPF_ANY 0
#define BPF_NOEXIST 1

/* In task_struct.__state: runnable; on its way out for ever. */
#define TASK_RUNNING 0x0000
#define TASK_DEAD 0x0080

/* In task_struct.flags: of the kernel itself. */
#define PF_KTHREAD 0x00200000
/* In signal_struct.flags: the whole process exits, with one code. */
#define SIGNAL_GROUP_EXIT 0x00000004

#define SIGSYS 31
/* Up to here siginfo pointers are marks, not addresses. */
#define SEND_SIG_PRIV 1
/* si_code of a SIGSYS that seccomp sends. */
#define SYS_SECCOMP 1

struct kernfs_node {
	__u64 id;
} __attribute__((preserve_access_index));

struct cgroup {
	struct kernfs_node *kn;
	int level;
} __attribute__((preserve_access_index));

struct css_set {
	struct cgroup *dfl_cgrp;
} __attribute__((preserve_access_index));

struct sched_info {
	unsigned long long run_delay;
} __attribute__((preserve_access_index));

struct task_io_accounting {
	__u64 read_bytes;
	__u64 write_bytes;
} __attribute__((preserve_access_index));

typedef struct {
	int counter;
} __attribute__((preserve_access_index)) atomic_t;

struct signal_struct {
	atomic_t live;
	unsigned int flags;
	int group_exit_code;
	/* Set by the OOM killer, for good. */
	void *oom_mm;
} __attribute__((preserve_access_index));

struct sched_entity {
	__u64 sum_exec_runtime;
	__u64 prev_sum_exec_runtime;
} __attribute__((preserve_access_index));

struct task_struct {
	struct sched_entity se;
	int pid;
	int tgid;
	unsigned int __state;
	unsigned int flags;
	int exit_code;
	unsigned long min_flt;
	unsigned long maj_flt;
	struct css_set *cgroups;
	struct signal_struct *signal;
	struct task_struct *group_leader;
	__u64 start_time;
	struct sched_info sched_info;
	struct task_io_accounting ioac;
} __attribute__((preserve_access_index));

/* Before Linux 5.14 the state had another name and type. */
struct task_struct___before_5_14 {
	long state;
} __attribute__((preserve_access_index));

union __sifields {
	struct {
		void *_call_addr;
		int _syscall;
		unsigned int _arch;
	} _sigsys;
} __attribute__((preserve_access_index));

struct kernel_siginfo {
	int si_code;
	union __sifields _sifields;
} __attribute__((preserve_access_index));

/* What programs on cgroups are called with: the kernel's ABI, up to the last field that we read. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
};

struct bpf_sock_addr {
	__u32 user_family;
	__u32 user_ip4;
	__u32 user_ip6[4];
	__u32 user_port;
	__u32 family;
	__u32 type;
	__u32 protocol;
};

struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
};

struct bpf_cgroup_dev_ctx {
	/* What is wanted in the upper half, BPF_DEVCG_DEV_* in the lower. */
	__u32 access_type;
	__u32 major;
	__u32 minor;
};
#define BPF_DEVCG_ACC_READ 2
#define BPF_DEVCG_ACC_WRITE 4
#define BPF_DEVCG_DEV_CHAR 2

/* Numbers on the wire and of sockets. */
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define IPPROTO_HOPOPTS 0
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ROUTING 43
#define IPPROTO_DSTOPTS 60
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
/* The loopback interface has this index in each network namespace. */
#define LOOPBACK_IFINDEX 1

#endif
