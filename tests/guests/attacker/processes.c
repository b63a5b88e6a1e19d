/* Other processes: to see, to signal, to look into, to leave behind. */
#include "attacker.h"
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

/* Whether a file holds the text, also across zero bytes. */
static bool holds(const char *path, const char *text) {
    static char bytes[1 << 16];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return false;
    ssize_t got = read(fd, bytes, sizeof bytes);
    close(fd);
    return got > 0 && memmem(bytes, got, text, strlen(text));
}

/* Whether a process has the text in its memory. */
static bool remembers(const char *process, const char *text) {
    char path[300], line[512];
    static char bytes[1 << 20];
    snprintf(path, sizeof path, "/proc/%s/maps", process);
    FILE *maps = fopen(path, "re");
    snprintf(path, sizeof path, "/proc/%s/mem", process);
    int memory = open(path, O_RDONLY | O_CLOEXEC);
    bool found = false;
    unsigned long begin, end;
    while (maps && memory >= 0 && !found && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx rw", &begin, &end) != 2 || !strstr(line, " rw") || !strstr(line, "heap")) continue;
        for (unsigned long at = begin; at < end && !found; at += sizeof bytes / 2) {
            ssize_t got = pread(memory, bytes, sizeof bytes, at);
            found = got > 0 && memmem(bytes, got, text, strlen(text));
        }
    }
    if (maps) fclose(maps);
    if (memory >= 0) close(memory);
    return found;
}

/* secret PREFIX REST: looks for the two words, put together, in whatever it can read of other processes. They come in
 * two so that the attacker's own memory does not hold them. */
static void secret(char *arguments) {
    char *text = word(&arguments), *rest = word(&arguments);
    int processes = 0, found = 0;
    /* The space between them goes: only this copy holds it whole. */
    memmove(text + strlen(text), rest, strlen(rest) + 1);
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        char path[300];
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9' || atoi(entry->d_name) == getpid()) continue;
        processes++;
        for (const char **file = (const char *[]){"environ", "cmdline", "auxv", "stack", NULL}; *file; file++) {
            snprintf(path, sizeof path, "/proc/%s/%s", entry->d_name, *file);
            if (holds(path, text)) found++;
        }
        if (remembers(entry->d_name, text)) found++;
    }
    if (proc) closedir(proc);
    say("other processes: %d\n", processes);
    say("secret: %s\n", found ? "ok" : "ENOENT");
    memset(text, 0, strlen(text));
}

/* keep TEXT MS: holds the text in memory for a while. */
static void keep(char *arguments) {
    char *kept = strdup(word(&arguments));
    sleep_ms(number(&arguments));
    say("kept %zu bytes\n", strlen(kept));
    free(kept);
}

/* signal PID...: each by each way. */
static void signals(char *arguments) {
    while (arguments && *arguments) {
        long pid = number(&arguments);
        char name[64];
        snprintf(name, sizeof name, "see %ld", pid);
        told(name, kill(pid, 0));
        snprintf(name, sizeof name, "end %ld", pid);
        told(name, kill(pid, SIGKILL));
        snprintf(name, sizeof name, "handle %ld", pid);
        int process = syscall(SYS_pidfd_open, pid, 0);
        told(name, process < 0 ? -1 : syscall(SYS_pidfd_send_signal, process, SIGKILL, NULL, 0));
        snprintf(name, sizeof name, "queue %ld", pid);
        told(name, sigqueue(pid, SIGKILL, (union sigval){0}));
        snprintf(name, sizeof name, "group %ld", pid);
        told(name, kill(-pid, SIGKILL));
        snprintf(name, sizeof name, "affinity %ld", pid);
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(0, &one);
        told(name, sched_setaffinity(pid, sizeof one, &one));
    }
}

/* identify: who this is, so that a later call can tell whether it still is. */
static void identify(char *arguments) {
    (void)arguments;
    static long born;
    if (!born) born = now_ms();
    say("pid %d born %ld\n", getpid(), born);
}

/* daemons HOW: double fork and a session of its own, deaf to what can be heard; then `answer`, `exit` or `crash`. */
static void daemons(char *arguments) {
    const char *how = word(&arguments);
    for (int i = 0; i < 3; i++) {
        if (fork()) continue;
        setsid();
        if (fork()) _exit(0);
        for (int signal_number = 1; signal_number < 32; signal_number++) signal(signal_number, SIG_IGN);
        for (;;) sleep_ms(1000);
    }
    if (!strcmp(how, "exit")) _exit(7);
    if (!strcmp(how, "crash")) abort();
    say("left daemons\n");
}

/* deaf: ignores SIGTERM and never answers, children and threads as well. */
static void deaf(char *arguments) {
    (void)arguments;
    for (int signal_number = 1; signal_number < 32; signal_number++) signal(signal_number, SIG_IGN);
    fork();
    for (;;) sleep_ms(1000);
}

/* spin: uses all the CPU it gets, and never answers. */
static void spin(char *arguments) {
    (void)arguments;
    fork();
    for (volatile unsigned long count = 0;; count++) {}
}

/* silence: closes its output for good. */
static void silence(char *arguments) {
    (void)arguments;
    close(0);
    close(1);
    close(2);
    say("closed\n");
}

/* dump: a core file, if it can. */
static void dump(char *arguments) {
    (void)arguments;
    chdir("/tmp");
    raise(SIGSEGV);
}

const struct attack PROCESSES[] = {{"secret", secret}, {"keep", keep}, {"signal", signals}, {"identify", identify},
                                   {"daemons", daemons}, {"deaf", deaf}, {"spin", spin}, {"silence", silence}, {"dump", dump},
                                   {NULL, NULL}};
