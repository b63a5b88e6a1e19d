/* System calls that change the machine or look into it. */
#include "attacker.h"
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/reboot.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <time.h>

static long target; /* somebody else's process */

static long try_mount(void) { return mount("none", "/tmp", "tmpfs", 0, NULL); }
static long try_bind(void) { return mount("/usr", "/tmp", NULL, MS_BIND, NULL); }
static long try_umount(void) { return umount2("/proc", MNT_DETACH); }
static long try_open_tree(void) { return syscall(SYS_open_tree, AT_FDCWD, "/usr", 1 /* OPEN_TREE_CLONE */); }
static long try_fsopen(void) { return syscall(SYS_fsopen, "tmpfs", 0); }
static long try_pivot_root(void) { return syscall(SYS_pivot_root, "/nonexistent", "/nonexistent"); }
static long try_unshare(void) { return unshare(CLONE_NEWUSER | CLONE_NEWNS); }
static long try_clone(void) {
    long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) _exit(0);
    return pid;
}
static long try_setns(void) {
    int fd = open("/proc/self/ns/uts", O_RDONLY);
    return setns(fd, 0);
}
static long try_kexec(void) { return syscall(SYS_kexec_load, 0, 0, NULL, 0); }
static long try_init_module(void) { return syscall(SYS_init_module, "", 0, ""); }
static long try_bpf(void) {
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
    return syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map);
}
static long try_keyctl(void) { return syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 1); }
static long try_add_key(void) { return syscall(SYS_add_key, "user", "attacker", "x", 1, KEY_SPEC_PROCESS_KEYRING); }
static long try_userfaultfd(void) { return syscall(SYS_userfaultfd, O_CLOEXEC); }
static long try_perf(void) {
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_CPU_CLOCK};
    return syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);
}
static long try_ptrace(void) { return ptrace(PTRACE_SEIZE, target, 0, 0); }
static long try_vm_read(void) {
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
    long got = process_vm_readv(target, &here, 1, &there, 1, 0);
    /* That address may not be mapped there; that it was looked for is the success. */
    return got == -1 && errno == EFAULT ? 0 : got;
}
static long try_getfd(void) {
    int process = syscall(SYS_pidfd_open, target, 0);
    return syscall(SYS_pidfd_getfd, process, 0, 0);
}
static long try_reboot(void) { return syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_CAD_OFF, 0); }
static long try_swapon(void) { return syscall(SYS_swapon, "/tmp", 0); }
static long try_hostname(void) { return sethostname("attacked", 8); }
static long try_acct(void) { return syscall(SYS_acct, NULL); }
static long try_handle(void) { return syscall(SYS_open_by_handle_at, AT_FDCWD, NULL, O_RDONLY); }
static long try_iopl(void) { return syscall(SYS_iopl, 3); }
static long try_int80(void) {
    long result = 20; /* getpid by its 32-bit number */
    __asm__ volatile("int $0x80" : "+a"(result) : : "memory");
    return result < 0 ? -1 : result;
}
static long try_unknown(void) { return syscall(9999); }

/* Refused politely. */
static long try_io_uring(void) {
    char parameters[120] = {0};
    return syscall(SYS_io_uring_setup, 4, parameters);
}
static long try_clone3(void) {
    struct { unsigned long long flags, rest[7]; } arguments = {CLONE_NEWUSER, {0}};
    arguments.rest[3] = SIGCHLD;
    long pid = syscall(SYS_clone3, &arguments, 64);
    if (pid == 0) _exit(0);
    return pid;
}
/* To set nothing needs the right to set all the same. */
static long try_settime(void) { return syscall(SYS_settimeofday, NULL, NULL); }
static long try_clock(void) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return clock_settime(CLOCK_REALTIME, &time);
}
static long try_adjtime(void) {
    struct timex time = {.modes = ADJ_TICK};
    struct timex is = {.modes = 0};
    if (syscall(SYS_adjtimex, &is) == -1) return -1;
    time.tick = is.tick;
    return syscall(SYS_adjtimex, &time);
}
static long try_chroot(void) { return chroot("/tmp"); }
static long try_mknod(void) {
    unlink("/tmp/mem");
    return mknod("/tmp/mem", S_IFCHR | 0666, makedev(1, 1));
}
static long try_syslog(void) {
    char text[64];
    return syscall(SYS_syslog, 3, text, sizeof text);
}
static long try_fanotify(void) { return syscall(SYS_fanotify_init, 0, O_RDONLY); }
static long try_personality(void) { return personality(ADDR_NO_RANDOMIZE); }
static long try_setuid(void) { return setuid(0); }
static long try_capset(void) {
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{.effective = 1 << CAP_SYS_ADMIN, .permitted = 1 << CAP_SYS_ADMIN}};
    return syscall(SYS_capset, &head, data);
}
static long try_privileges(void) { return prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0); }
static long try_filter(void) {
    long mode = prctl(PR_GET_SECCOMP, 0, 0, 0, 0);
    errno = EPERM;
    return mode == 0 ? 0 : -1;
}
static long try_realtime(void) {
    struct sched_param parameters = {.sched_priority = 1};
    return sched_setscheduler(0, SCHED_FIFO, &parameters);
}
static long try_nice(void) { return setpriority(PRIO_PROCESS, 0, -20); }
static long try_io_realtime(void) { return syscall(SYS_ioprio_set, 1, 0, 1 << 13); }
static long try_raise(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max += 1;
    return setrlimit(RLIMIT_NOFILE, &limit);
}
static long try_core(void) {
    struct rlimit limit = {1 << 20, 1 << 20};
    return setrlimit(RLIMIT_CORE, &limit);
}
static long try_tiocsti(void) {
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal >= 0 && (grantpt(terminal) || unlockpt(terminal))) return -1;
    int other = terminal < 0 ? 0 : open(ptsname(terminal), O_RDWR | O_NOCTTY);
    return ioctl(other, TIOCSTI, "x");
}
static long try_raw(void) { return socket(AF_INET, SOCK_RAW, 1); }
static long try_packet(void) { return socket(AF_PACKET, SOCK_RAW, 0); }
static long try_netlink(void) { return socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE); }
static long try_alg(void) { return socket(AF_ALG, SOCK_SEQPACKET, 0); }
static long try_aio(void) {
    unsigned long context = 0;
    return syscall(SYS_io_setup, 1024, &context);
}

static const struct { const char *name; long (*call)(void); } CALLS[] = {
    {"mount", try_mount}, {"bind-mount", try_bind}, {"umount2", try_umount}, {"open_tree", try_open_tree},
    {"fsopen", try_fsopen}, {"pivot_root", try_pivot_root}, {"unshare", try_unshare}, {"clone", try_clone},
    {"setns", try_setns}, {"kexec_load", try_kexec}, {"init_module", try_init_module}, {"bpf", try_bpf},
    {"keyctl", try_keyctl}, {"add_key", try_add_key}, {"userfaultfd", try_userfaultfd}, {"perf_event_open", try_perf},
    {"ptrace", try_ptrace}, {"process_vm_readv", try_vm_read}, {"pidfd_getfd", try_getfd}, {"reboot", try_reboot},
    {"swapon", try_swapon}, {"sethostname", try_hostname}, {"acct", try_acct}, {"open_by_handle_at", try_handle},
    {"iopl", try_iopl}, {"int80", try_int80}, {"unknown", try_unknown}, {"io_uring_setup", try_io_uring},
    {"clone3", try_clone3}, {"settimeofday", try_settime}, {"clock_settime", try_clock}, {"adjtimex", try_adjtime},
    {"chroot", try_chroot}, {"mknod", try_mknod}, {"syslog", try_syslog}, {"fanotify", try_fanotify},
    {"personality", try_personality}, {"setuid", try_setuid}, {"capset", try_capset},
    {"new-privileges", try_privileges}, {"no-filter", try_filter}, {"realtime", try_realtime}, {"nice", try_nice},
    {"io-realtime", try_io_realtime}, {"more-files", try_raise}, {"core-files", try_core}, {"tiocsti", try_tiocsti},
    {"raw-socket", try_raw}, {"packet-socket", try_packet}, {"netlink-socket", try_netlink}, {"alg-socket", try_alg},
    {"io_setup", try_aio},
};

/* syscall NAME [PID]: in a child if it may end the process that makes it, for all that is known here. */
static void one_call(char *arguments) {
    const char *name = word(&arguments);
    target = arguments && *arguments ? number(&arguments) : 0;
    for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++) {
        if (!strcmp(CALLS[i].name, name)) return told(name, CALLS[i].call());
    }
    say("%s: no such probe\n", name);
}

const struct attack KERNEL[] = {{"syscall", one_call}, {NULL, NULL}};
