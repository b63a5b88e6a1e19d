/* Taking more than one's share. */
#include "attacker.h"
#include <arpa/inet.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/uio.h>

/* forks MS: each process forks as often as it can, for so long. */
static void forks(char *arguments) {
    long until = now_ms() + number(&arguments), made = 0;
    pid_t first = getpid();
    int last = 0;
    while (now_ms() < until) {
        pid_t pid = fork();
        if (pid > 0) made++;
        if (pid < 0) last = errno;
    }
    if (getpid() != first) for (;;) pause();
    errno = last;
    told("fork", last ? -1 : 0);
    say("made %ld\n", made);
}

static void *sleeper(void *nothing) {
    for (;;) pause();
    return nothing;
}

/* threads MOST: as many as it gets. */
static void threads(char *arguments) {
    long most = number(&arguments), made = 0;
    int failed = 0;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 16384);
    for (; made < most && !failed; made += !failed) {
        pthread_t thread;
        failed = pthread_create(&thread, &attributes, sleeper, NULL);
    }
    errno = failed;
    told("thread", failed ? -1 : 0);
    say("made %ld\n", made);
}

/* memory HOW MIB: takes so much and writes to it all. */
static void memory(char *arguments) {
    const char *how = word(&arguments);
    size_t mib = number(&arguments), taken = 0;
    static char block[1 << 20];
    memset(block, 1, sizeof block);
    int file = !strcmp(how, "memfd") ? memfd_create("x", 0) : !strcmp(how, "file") ? open("/tmp/file", O_RDWR | O_CREAT, 0600) : -1;
    for (; taken < mib; taken++) {
        if (!strcmp(how, "heap")) {
            char *more = mmap(NULL, sizeof block, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (more == MAP_FAILED) break;
            memset(more, 1, sizeof block);
        } else if (!strcmp(how, "shared")) {
            int id = shmget(IPC_PRIVATE, sizeof block, 0600);
            char *more = shmat(id, NULL, 0);
            if (more == (char *)-1) break;
            memset(more, 1, sizeof block);
        } else {
            size_t at = 0;
            /* The part that did not fit says why. */
            for (ssize_t put; at < sizeof block && (put = write(file, block + at, sizeof block - at)) > 0;) at += put;
            if (at < sizeof block) break;
        }
    }
    told(how, taken == mib ? 0 : -1);
    say("took %zu MiB\n", taken);
    /* Held for a moment, for others to look. */
    sleep_ms(100);
    if (file >= 0) {
        if (!ftruncate(file, 0)) close(file);
        unlink("/tmp/file");
    }
}

/* names MOST: files without bytes in /tmp. */
static void names(char *arguments) {
    long most = number(&arguments), made = 0;
    char path[64];
    for (; made < most; made++) {
        snprintf(path, sizeof path, "/tmp/name%ld", made);
        int fd = open(path, O_WRONLY | O_CREAT, 0600);
        if (fd < 0) break;
        close(fd);
    }
    told("name", made == most ? 0 : -1);
    say("made %ld\n", made);
    while (made-- > 0) {
        snprintf(path, sizeof path, "/tmp/name%ld", made);
        unlink(path);
    }
}

static int again(const char *what) {
    if (!strcmp(what, "files")) return open("/dev/null", O_RDONLY);
    if (!strcmp(what, "sockets")) return socket(AF_INET, SOCK_STREAM, 0);
    if (!strcmp(what, "inotify")) return inotify_init1(0);
    if (!strcmp(what, "epoll")) return epoll_create1(0);
    if (!strcmp(what, "api")) return api_connect();
    return memfd_create("x", 0);
}

/* open WHAT MOST MS: as many as it gets, held for so long. */
static void open_many(char *arguments) {
    const char *what = word(&arguments);
    long most = number(&arguments), hold = number(&arguments), made = 0;
    static int held[1 << 16];
    while (made < most && made < (long)(sizeof held / sizeof *held) && (held[made] = again(what)) >= 0) made++;
    int last = errno;
    sleep_ms(hold);
    for (long i = 0; i < made; i++) close(held[i]);
    errno = last;
    told(what, made == most ? 0 : -1);
    say("made %ld\n", made);
}

/* signals MOST MS: queued to itself, held for so long. */
static void queued(char *arguments) {
    long most = number(&arguments), hold = number(&arguments), made = 0;
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    while (made < most && !sigqueue(getpid(), SIGRTMIN + 1, (union sigval){0})) made++;
    told("queue", made == most ? 0 : -1);
    sleep_ms(hold);
    say("made %ld\n", made);
}

/* messages MOST: POSIX message queues of the usual size. */
static void messages(char *arguments) {
    long most = number(&arguments), made = 0;
    for (char name[32]; made < most; made++) {
        snprintf(name, sizeof name, "/queue%ld", made);
        if (mq_open(name, O_CREAT | O_RDWR, 0600, NULL) < 0) break;
    }
    told("message queue", made == most ? 0 : -1);
    say("made %ld\n", made);
}

/* aio MOST: slots of asynchronous file I/O, of which the host has one pot. */
static void aio(char *arguments) {
    long most = number(&arguments), made = 0;
    for (unsigned long context = 0; made < most; made += 128, context = 0) {
        if (syscall(SYS_io_setup, 128, &context)) break;
    }
    told("aio", made >= most ? 0 : -1);
    say("made %ld\n", made);
}

/* buffers HOW MIB: memory of the kernel that stands in sockets and pipes. */
static void buffers(char *arguments) {
    const char *how = word(&arguments);
    size_t mib = number(&arguments), taken = 0;
    static char block[1 << 16];
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof own;
    int listener = socket(AF_INET, SOCK_STREAM, 0), most = 64 << 20;
    bind(listener, (struct sockaddr *)&own, sizeof own);
    listen(listener, 128);
    getsockname(listener, (struct sockaddr *)&own, &length);
    while (taken < mib << 20) {
        int ends[2];
        if (!strcmp(how, "pipe")) {
            if (pipe(ends)) break;
            fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
        } else if (!strcmp(how, "unix")) {
            if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) break;
        } else {
            ends[1] = socket(AF_INET, SOCK_STREAM, 0);
            setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &most, sizeof most);
            if (ends[1] < 0 || connect(ends[1], (struct sockaddr *)&own, sizeof own) || accept(listener, NULL, NULL) < 0) break;
        }
        fcntl(ends[1], F_SETFL, O_NONBLOCK);
        for (ssize_t put; (put = write(ends[1], block, sizeof block)) > 0;) taken += put;
    }
    told(how, taken >= mib << 20 ? 0 : -1);
    say("took %zu KiB\n", taken >> 10);
    sleep_ms(200);
    for (int fd = 3; fd < 4096; fd++) if (fd != wire) close(fd);
}

/* flight MOST: descriptors sent and not received. */
static void flight(char *arguments) {
    long most = number(&arguments), made = 0;
    int last = 0;
    while (made < most && !last) {
        int ends[2];
        if (socketpair(AF_UNIX, SOCK_DGRAM, 0, ends)) {
            last = errno;
            break;
        }
        for (;;) {
            struct { struct cmsghdr head; int fds[250]; } control = {{CMSG_LEN(sizeof control.fds), SOL_SOCKET, SCM_RIGHTS}, {0}};
            struct iovec part = {"x", 1};
            struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_SPACE(sizeof control.fds)};
            if (sendmsg(ends[0], &message, MSG_DONTWAIT) < 0) {
                if (errno != EAGAIN) last = errno;
                break;
            }
            made += 250;
        }
        /* Only what is in flight holds them any more. */
        close(ends[0]);
    }
    errno = last;
    told("flight", last ? -1 : 0);
    say("made %ld\n", made);
}

/* errors MIB: writes so much to stderr. */
static void errors(char *arguments) {
    long mib = number(&arguments);
    static char block[1 << 20];
    memset(block, 'x', sizeof block);
    for (long i = 0; i < mib; i++) {
        for (size_t at = 0; at < sizeof block;) {
            ssize_t put = write(2, block + at, sizeof block - at);
            if (put <= 0) return told("stderr", -1);
            at += put;
        }
    }
    told("stderr", 0);
}

/* output MIB: the same to stdout, for functions by stdio. */
static void output(char *arguments) {
    long mib = number(&arguments);
    dup2(1, 2);
    char text[32];
    snprintf(text, sizeof text, "%ld", mib);
    errors(text);
}

/* sync: asks the host to write all its disks. */
static void sync_all(char *arguments) {
    (void)arguments;
    int fd = open("/usr", O_RDONLY | O_DIRECTORY);
    sync();
    told("syncfs", syncfs(fd));
    told("fsync", fsync(fd));
}

const struct attack RESOURCES[] = {{"forks", forks}, {"threads", threads}, {"memory", memory}, {"names", names},
                                   {"open", open_many}, {"signals", queued}, {"messages", messages}, {"aio", aio},
                                   {"buffers", buffers}, {"flight", flight}, {"errors", errors}, {"output", output},
                                   {"sync", sync_all}, {NULL, NULL}};
