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

/* From enum bpf_map_type and the flags of bpf_map_update_elem: numbers of the kernel's ABI. */
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_PERCPU_HASH 5
#define BPF_ANY 0

/* In task_struct.__state: runnable; on its way out for ever. */
#define TASK_RUNNING 0x0000
#define TASK_DEAD 0x0080

struct task_struct {
	int pid;
	int tgid;
	unsigned int __state;
} __attribute__((preserve_access_index));

/* Before Linux 5.14 the state had another name and type. */
struct task_struct___before_5_14 {
	long state;
} __attribute__((preserve_access_index));

#endif
