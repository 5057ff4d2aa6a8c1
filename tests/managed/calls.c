/*
 * System calls on memory that is mostly not there: each kind of pointer that a call takes, calls
 * that the C library makes for itself, signals, and children. TAP.
 */
#include <aio.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "../tap.h"

#define MIB (1024UL * 1024)
#define CROWD (16 * MIB)
#define LARGE (9 * MIB) /* more than the memory */

extern char **environ;

static char *crowd; /* touched to drive everything else out */

static void drive_out(void)
{
    for (size_t at = 0; at < CROWD; at += 4096)
        crowd[at]++;
}

/* Memory with content, not there. */
static char *absent(size_t size)
{
    char *memory = malloc(size);

    for (size_t i = 0; i < size; i++)
        memory[i] = (char)(i * 7 + i / 4096);
    drive_out();
    return memory;
}

static int is_pattern(const char *memory, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (memory[i] != (char)(i * 7 + i / 4096))
            return 0;
    }
    return 1;
}

static int temporary(void)
{
    char name[] = "/var/tmp/vmsm-calls.XXXXXX";
    int fd = mkstemp(name);

    unlink(name);
    return fd;
}

/* ---- files ---- */

static void test_files(void)
{
    char *out = absent(LARGE), *in = absent(LARGE);
    int fd = temporary();
    struct iovec *iov;

    ok(write(fd, out, LARGE) == (ssize_t)LARGE, "write() of more than the memory");
    drive_out();
    ok(pread(fd, in, LARGE, 0) == (ssize_t)LARGE && is_pattern(in, LARGE), "pread() of it");
    memset(in, 0, LARGE);
    drive_out();
    lseek(fd, 0, SEEK_SET);
    ok(syscall(SYS_read, fd, in, LARGE) == (long)LARGE && is_pattern(in, LARGE),
       "read by syscall()");
    memset(in, 0, LARGE);
    iov = malloc(200 * sizeof(*iov));
    for (int i = 0; i < 200; i++)
        iov[i] = (struct iovec){.iov_base = in + i * 40000, .iov_len = 40000};
    drive_out();
    lseek(fd, 0, SEEK_SET);
    ok(readv(fd, iov, 200) == 8000000 && is_pattern(in, 8000000), "readv() of 200 pieces");
    drive_out();
    ok(pwritev(fd, iov, 200, 1000) == 8000000, "pwritev()");
    memset(in, 0, 8000000);
    ok(pread(fd, in, 8000000, 1000) == 8000000 && is_pattern(in, 8000000), "and it is there");
    close(fd);
    free(iov);
    free(in);
    free(out);
}

static void test_streams(void)
{
    char *out = absent(3 * MIB), *in = absent(3 * MIB), *line = NULL;
    FILE *stream = fdopen(temporary(), "w+");
    size_t size = 0;

    setvbuf(stream, NULL, _IOFBF, 100000);
    drive_out();
    ok(fwrite(out, 1, 3 * MIB, stream) == 3 * MIB && fflush(stream) == 0, "fwrite()");
    rewind(stream);
    drive_out();
    memset(in, 0, 3 * MIB);
    drive_out();
    ok(fread(in, 1, 3 * MIB, stream) == 3 * MIB && is_pattern(in, 3 * MIB), "fread()");
    rewind(stream);
    for (int i = 0; i < 1000; i++)
        fprintf(stream, "line %d\n", i);
    rewind(stream);
    drive_out();
    ok(getline(&line, &size, stream) == 7 && strcmp(line, "line 0\n") == 0, "getline()");
    fclose(stream);
    free(line);
    free(in);
    free(out);
}

static void test_names(void)
{
    char *path = absent(8192), *name = path + 4090; /* it goes over the end of a page */
    struct stat *st = malloc(sizeof(*st));
    struct utsname *names = malloc(sizeof(*names));
    struct rlimit *limit = malloc(sizeof(*limit));
    DIR *directory;
    int entries = 0;

    strcpy(name, "/proc/self/status");
    drive_out();
    ok(stat(name, st) == 0 && S_ISREG(st->st_mode), "stat()");
    drive_out();
    ok(access(name, R_OK) == 0, "access()");
    drive_out();
    ok(uname(names) == 0 && names->sysname[0] == 'L', "uname()");
    drive_out();
    ok(getrlimit(RLIMIT_NOFILE, limit) == 0 && limit->rlim_cur > 0, "getrlimit()");
    strcpy(name, "/proc/self/exe");
    drive_out();
    ok(readlink(name, path, 4000) > 0 && path[0] == '/', "readlink()");
    drive_out();
    ok(getcwd(path, 4096) == path && path[0] == '/', "getcwd()");
    directory = opendir("/proc/self");
    drive_out();
    while (readdir(directory) != NULL)
        entries++;
    ok(entries > 20, "readdir()");
    closedir(directory);
    ok(getrandom(path, 4096, 0) == 4096, "getrandom()");
    free(limit);
    free(names);
    free(st);
    free(path);
}

/* ---- pipes, sockets, waiting ---- */

struct copier {
    int from;
    char *to;
    size_t length;
};

static void *copier_main(void *argument)
{
    struct copier *c = argument;
    size_t at = 0;

    while (at < c->length) {
        ssize_t got = read(c->from, c->to + at, c->length - at);

        if (got <= 0)
            break;
        at += (size_t)got;
    }
    return (void *)at;
}

static void test_pipes(void)
{
    char *out = absent(LARGE), *in = absent(LARGE);
    struct copier copier = {.to = in, .length = LARGE};
    pthread_t thread;
    void *got = NULL;
    int ends[2];

    for (int socket = 0; socket < 2; socket++) {
        ok((socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, ends) : pipe(ends)) == 0, "two ends");
        memset(in, 0, LARGE);
        copier.from = ends[0];
        pthread_create(&thread, NULL, copier_main, &copier);
        ok(write(ends[1], out, LARGE) == (ssize_t)LARGE, "write() waits until all is written");
        pthread_join(thread, &got);
        ok((size_t)got == LARGE && is_pattern(in, LARGE), "and all of it comes");
        close(ends[0]);
        close(ends[1]);
    }
    free(in);
    free(out);
}

static void test_messages(void)
{
    char *out = absent(60000), *in = absent(60000), *control = absent(4096);
    struct msghdr *message = calloc(1, sizeof(*message));
    struct iovec *iov = malloc(2 * sizeof(*iov));
    struct pollfd *fds = malloc(sizeof(*fds));
    struct epoll_event *events = malloc(5000 * sizeof(*events)), event = {.events = EPOLLIN};
    struct mmsghdr *many = calloc(2, sizeof(*many));
    struct cmsghdr *header;
    int ends[2], epoll = epoll_create1(0), passed = -1;

    ok(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0, "sockets for datagrams");
    iov[0] = (struct iovec){.iov_base = out, .iov_len = 20000};
    iov[1] = (struct iovec){.iov_base = out + 20000, .iov_len = 40000};
    memset(control, 0, CMSG_SPACE(sizeof(int)));
    message->msg_iov = iov;
    message->msg_iovlen = 2;
    message->msg_control = control;
    message->msg_controllen = CMSG_SPACE(sizeof(int));
    header = CMSG_FIRSTHDR(message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &ends[0], sizeof(int));
    drive_out();
    ok(sendmsg(ends[1], message, 0) == 60000, "sendmsg() with a descriptor");
    *fds = (struct pollfd){.fd = ends[0], .events = POLLIN};
    drive_out();
    ok(poll(fds, 1, 1000) == 1 && fds->revents == POLLIN, "poll()");
    epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event);
    drive_out();
    ok(epoll_wait(epoll, events, 5000, 1000) == 1 && events[0].events == EPOLLIN, "epoll_wait()");
    iov[0].iov_base = in;
    iov[1].iov_base = in + 20000;
    memset(in, 0, 60000);
    memset(control, 0, 4096);
    message->msg_controllen = 4096;
    drive_out();
    ok(recvmsg(ends[0], message, 0) == 60000 && is_pattern(in, 60000), "recvmsg()");
    header = CMSG_FIRSTHDR(message);
    if (header != NULL && header->cmsg_type == SCM_RIGHTS)
        memcpy(&passed, CMSG_DATA(header), sizeof(int));
    ok(passed >= 0 && fcntl(passed, F_GETFD) >= 0, "with the descriptor");
    many[0].msg_hdr.msg_iov = iov;
    many[0].msg_hdr.msg_iovlen = 2;
    drive_out();
    ok(sendmmsg(ends[1], many, 1, 0) == 1 && many[0].msg_len == 60000, "sendmmsg()");
    drive_out();
    ok(recvfrom(ends[0], in, 60000, 0, NULL, NULL) == 60000 && is_pattern(in, 60000), "recvfrom()");
    close(passed);
    close(epoll);
    close(ends[0]);
    close(ends[1]);
    free(many);
    free(events);
    free(fds);
    free(iov);
    free(message);
    free(control);
    free(in);
    free(out);
}

/* ---- signals ---- */

static volatile sig_atomic_t caught;
static sigjmp_buf out_of_read;

static void on_signal(int number)
{
    caught = number;
}

static void leave(int number)
{
    siglongjmp(out_of_read, number);
}

static void test_signals(void)
{
    stack_t stack = {.ss_size = 65536}, old;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK}, before;
    struct itimerval *soon = calloc(1, sizeof(*soon)), never = {.it_value = {0}};
    struct timespec *wait = calloc(1, sizeof(*wait));
    sigset_t *all = malloc(sizeof(*all)), now;
    fd_set *set = calloc(1, sizeof(*set));
    char *byte = absent(1);
    int ends[2], left = 0;

    sigfillset(&action.sa_mask);
    sigaction(SIGALRM, &action, NULL);
    sigaction(SIGSYS, &action, NULL);
    sigaction(SIGSYS, NULL, &before);
    ok(before.sa_handler == on_signal, "a handler of SIGSYS is remembered");
    raise(SIGSYS);
    ok(caught == SIGSYS, "and called");
    stack.ss_sp = absent(65536);
    ok(sigaltstack(&stack, NULL) == 0, "an alternate stack from malloc()");
    soon->it_value.tv_usec = 1000;
    drive_out();
    sigemptyset(&now);
    sigaddset(&now, SIGALRM);
    sigprocmask(SIG_BLOCK, &now, NULL); /* it must not come before the call */
    sigfillset(all);
    sigdelset(all, SIGALRM);
    setitimer(ITIMER_REAL, soon, NULL);
    wait->tv_sec = 5;
    ok(pselect(0, set, NULL, NULL, wait, all) < 0 && errno == EINTR && caught == SIGALRM,
       "pselect() with a mask, and a handler on that stack");
    sigprocmask(SIG_UNBLOCK, &now, NULL);
    caught = 0;
    ok(sigaltstack(NULL, &old) == 0 && old.ss_sp == stack.ss_sp, "which stays in place");
    sigfillset(all);
    drive_out();
    ok(sigprocmask(SIG_BLOCK, all, NULL) == 0 && stat("/", &(struct stat){0}) == 0,
       "all signals can be blocked, and calls be made");
    raise(SIGALRM);
    ok(caught == 0, "a blocked signal waits");
    sigprocmask(SIG_UNBLOCK, all, NULL);
    ok(caught == SIGALRM, "until it is unblocked");
    sigprocmask(SIG_SETMASK, NULL, &now);
    ok(!sigismember(&now, SIGALRM), "the mask is what was set");
    ok(pipe(ends) == 0, "a pipe");
    action.sa_handler = leave;
    action.sa_flags = SA_NODEFER;
    sigemptyset(&action.sa_mask);
    sigaction(SIGALRM, &action, NULL);
    for (int i = 0; i < 50; i++) {
        setitimer(ITIMER_REAL, soon, NULL);
        if (sigsetjmp(out_of_read, 1) == 0)
            read(ends[0], byte, 1);
        else
            left++;
    }
    setitimer(ITIMER_REAL, &never, NULL);
    ok(left == 50, "handlers leave reads by siglongjmp()");
    stack.ss_flags = SS_DISABLE;
    sigaltstack(&stack, NULL);
    close(ends[0]);
    close(ends[1]);
    free(byte);
    free(set);
    free(all);
    free(wait);
    free(soon);
}

/* ---- pointers ---- */

static int fails(long result, int error)
{
    return result == -1 && errno == error;
}

/* It may block what it likes for the time after it; calls go on. */
static void block_all(int number, siginfo_t *info, void *context)
{
    ucontext_t *interrupted = context;

    (void)info;
    caught = number;
    memset(&interrupted->uc_sigmask, 255, 8);
}

static void test_pointers(void)
{
    char *bad = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *word = absent(8192), *argv[] = {(char *)8, NULL}, name[] = "/bin/true";
    int end = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sigaction action = {.sa_sigaction = block_all, .sa_flags = SA_SIGINFO};
    struct sockaddr_un address;
    sigset_t now, none;

    memset(bad, 1, 4 * MIB);
    mprotect(bad, 4 * MIB, PROT_NONE);
    drive_out();
    ok(fails(syscall(SYS_rt_sigprocmask, -1L, 8L, NULL, 8L), EFAULT) &&
           fails(syscall(SYS_rt_sigprocmask, -1L, bad, NULL, 8L), EFAULT),
       "programs look whether an address can be read");
    ok(fails(syscall(SYS_rt_sigprocmask, -1L, word, NULL, 8L), EINVAL) &&
           fails(syscall(SYS_rt_sigprocmask, -1L, &now, NULL, 8L), EINVAL),
       "and those that can");
    ok(fails(syscall(SYS_rt_sigprocmask, (long)SIG_BLOCK, NULL, bad, 8L), EFAULT), "or be written");
    ok(fails(syscall(SYS_rt_sigaction, SIGUSR2, 8L, NULL, 8L), EFAULT) &&
           fails(sigaltstack((const stack_t *)bad, NULL), EFAULT) &&
           fails(syscall(SYS_pselect6, 0L, NULL, NULL, NULL, NULL, bad), EFAULT) &&
           fails(syscall(SYS_rt_sigsuspend, 8L, 8L), EFAULT),
       "bad pointers of calls on signals");
    ok(fails(syscall(SYS_getsockname, end, &address, 8L), EFAULT) &&
           fails(stat(bad, &(struct stat){0}), EFAULT) && fails(open(bad, O_RDONLY), EFAULT),
       "and of others");
    ok(fails(syscall(SYS_execve, name, 8L, environ), EFAULT) &&
           fails(syscall(SYS_execve, name, argv, environ), EFAULT) &&
           fails(syscall(SYS_execve, name, NULL, bad), EFAULT) &&
           fails(syscall(SYS_execve, 8L, NULL, environ), EFAULT),
       "and of execve()");
    sigaction(SIGUSR2, &action, NULL);
    raise(SIGUSR2);
    ok(caught == SIGUSR2 && getppid() > 0, "a handler blocks all signals");
    sigprocmask(SIG_SETMASK, NULL, &now);
    ok(sigismember(&now, SIGALRM) && sigismember(&now, SIGUSR2), "when it has returned");
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    close(end);
    free(word);
    munmap(bad, 4 * MIB);
}

static void test_letters(void)
{
    int queue = msgget(IPC_PRIVATE, 0600 | IPC_CREAT);
    char *memory = absent(3 * 4096 + 100), *page = memory + 4096 - (uintptr_t)memory % 4096;
    struct msgbuf *letter = (struct msgbuf *)(page + 4096 - 104); /* its last four are on another */

    if (queue < 0)
        return;
    letter->mtype = 5;
    memset(letter->mtext, 'a', 100);
    drive_out();
    ok(msgsnd(queue, letter, 100, 0) == 0, "msgsnd()");
    memset(letter, 0, 108);
    drive_out();
    ok(msgrcv(queue, letter, 100, 0, 0) == 100 && letter->mtype == 5 && letter->mtext[99] == 'a',
       "msgrcv()");
    msgctl(queue, IPC_RMID, NULL);
    free(memory);
}

/* Who only asks what is there does not bring it. */
static void test_residence(void)
{
    unsigned char there[64];
    char *memory =
        mmap(NULL, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int others = 0;

    memset(memory, 1, 64 * 4096);
    drive_out();
    ok(mincore(memory, 64 * 4096, there) == 0, "mincore()");
    for (int i = 1; i < 64; i++)
        others += there[i] & 1;
    ok(others > 0 || !(there[0] & 1), "brings not the page that it is asked from");
    munmap(memory, 64 * 4096);
}

/* A structure that has a pointer to another. */
static void test_inner(void)
{
    struct sock_filter *code = (void *)absent(sizeof(*code) * 200);
    struct sock_fprog *program = (void *)absent(sizeof(*program));
    unsigned short *values = (void *)absent(400 * sizeof(*values));
    int ends[2], set = semget(IPC_PRIVATE, 400, 0600 | IPC_CREAT);

    for (int i = 0; i < 200; i++)
        code[i] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0xffff);
    *program = (struct sock_fprog){.len = 200, .filter = code};
    socketpair(AF_UNIX, SOCK_DGRAM, 0, ends);
    drive_out();
    ok(setsockopt(ends[0], SOL_SOCKET, SO_ATTACH_FILTER, program, sizeof(*program)) == 0,
       "a filter is attached");
    for (int i = 0; i < 400; i++)
        values[i] = (unsigned short)i;
    drive_out();
    ok(set < 0 || semctl(set, 0, SETALL, values) == 0, "semaphores are set");
    memset(values, 0, 400 * sizeof(*values));
    drive_out();
    ok(set < 0 || (semctl(set, 0, GETALL, values) == 0 && values[399] == 399), "and read");
    if (set >= 0)
        semctl(set, 0, IPC_RMID);
    close(ends[0]);
    close(ends[1]);
    free(values);
    free(program);
    free(code);
}

static void test_requests(void)
{
    char *memory = absent(3 * 4096);
    struct ifconf *list = (void *)absent(sizeof(*list));
    int ends[2], *waiting = (void *)absent(sizeof(*waiting)), end = socket(AF_INET, SOCK_DGRAM, 0);

    ok(pipe(ends) == 0 && write(ends[1], memory, 1000) == 1000, "a thousand bytes in a pipe");
    drive_out();
    ok(ioctl(ends[0], FIONREAD, waiting) == 0 && *waiting == 1000, "are counted by ioctl()");
    *list = (struct ifconf){.ifc_len = 3 * 4096, .ifc_buf = memory};
    drive_out();
    ok(end < 0 || (ioctl(end, SIOCGIFCONF, list) == 0 && list->ifc_len < 3 * 4096),
       "interfaces are listed");
    close(end);
    close(ends[0]);
    close(ends[1]);
    free(waiting);
    free(list);
    free(memory);
}

static void test_random(void)
{
    char *bytes = absent(3 * 4096);
    size_t from = 4096 - (uintptr_t)bytes % 4096 - 100; /* a page, and some of its neighbours */
    unsigned same = 0;

    ok(getrandom(bytes + from, 4296, 0) == 4296, "getrandom() over the ends of a page");
    drive_out();
    for (size_t i = from; i < from + 4296; i++)
        same += bytes[i] == (char)(i * 7 + i / 4096);
    ok(same < 200, "its bytes are there");
    ok(is_pattern(bytes, from), "and none before them are changed");
    free(bytes);
}

/* ---- threads ---- */

static void *waits_for_word(void *argument)
{
    unsigned *word = argument;

    while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == 0)
        syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL, NULL, 0);
    return argument;
}

/* The word that a thread waits for leaves meanwhile. */
static void test_futex(void)
{
    unsigned *word = (void *)absent(sizeof(*word));
    pthread_t thread;
    unsigned woken = 0;

    for (unsigned round = 0; round < 10; round++) {
        void *result = NULL;

        *word = 0;
        pthread_create(&thread, NULL, waits_for_word, word);
        usleep(5000);
        drive_out();
        __atomic_store_n(word, 1, __ATOMIC_SEQ_CST);
        drive_out();
        syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
        pthread_join(thread, &result);
        woken += result == word;
    }
    ok(woken == 10, "who waits on a futex is woken");
    drive_out();
    ok(fails(syscall(SYS_futex, word, FUTEX_WAIT, 7, NULL, NULL, 0), EAGAIN),
       "and does not wait if its word has changed");
    free(word);
}

static void *reads_for_ever(void *argument)
{
    int *fd = argument;
    char *byte = malloc(1);

    while (read(*fd, byte, 1) >= 0)
        continue;
    return NULL;
}

static void *locks(void *argument)
{
    pthread_mutex_t *mutex = argument;

    for (int i = 0; i < 2000; i++) {
        pthread_mutex_lock(mutex);
        if (i % 100 == 0)
            sched_yield();
        pthread_mutex_unlock(mutex);
    }
    return NULL;
}

static void on_timer(union sigval value)
{
    pthread_mutex_unlock(value.sival_ptr);
}

static void test_threads(void)
{
    pthread_mutex_t *mutex = malloc(sizeof(*mutex));
    pthread_t thread, threads[4];
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_timer};
    struct itimerspec soon = {.it_value = {.tv_nsec = 1000000}};
    struct aiocb *io = calloc(1, sizeof(*io));
    const struct aiocb *list[] = {io};
    char *out = absent(50000);
    timer_t timer;
    void *result = NULL;
    int ends[2], fd = temporary();

    ok(pipe(ends) == 0, "a pipe");
    pthread_create(&thread, NULL, reads_for_ever, &ends[0]);
    usleep(20000);
    pthread_cancel(thread);
    ok(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED, "a read is cancelled");
    pthread_mutex_init(mutex, NULL);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, locks, mutex);
    drive_out();
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    ok(pthread_mutex_trylock(mutex) == 0, "threads wait for a mutex");
    event.sigev_value.sival_ptr = mutex;
    ok(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "a timer with a thread");
    timer_settime(timer, 0, &soon, NULL);
    pthread_mutex_lock(mutex);
    ok(1, "which comes");
    timer_delete(timer);
    io->aio_fildes = fd;
    io->aio_buf = out;
    io->aio_nbytes = 50000;
    drive_out();
    ok(aio_write(io) == 0, "aio_write()");
    while (aio_error(io) == EINPROGRESS)
        aio_suspend(list, 1, NULL);
    ok(aio_return(io) == 50000, "is done");
    close(fd);
    close(ends[0]);
    close(ends[1]);
    free(out);
    free(io);
    free(mutex);
}

/* Ends of records: what is sent or read at once stays whole. */
static void test_records(void)
{
    char *out = absent(160000), *in = absent(160000);
    struct iovec *iov = malloc(100 * sizeof(*iov));
    struct msghdr *message = calloc(1, sizeof(*message));
    int ends[2], room = 400000;

    for (int i = 0; i < 100; i++)
        iov[i] = (struct iovec){.iov_base = out + i * 1600, .iov_len = 1600};
    message->msg_iov = iov;
    message->msg_iovlen = 100;
    for (int kind = 0; kind < 2; kind++) {
        ok(socketpair(AF_UNIX, kind == 0 ? SOCK_DGRAM : SOCK_SEQPACKET, 0, ends) == 0, "sockets");
        setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
        for (int i = 0; i < 3; i++) {
            drive_out();
            if (i == 0)
                ok(send(ends[0], out, 160000, 0) == 160000, "send() of a large record");
            else if (i == 1)
                ok(writev(ends[0], iov, 100) == 160000, "writev() of 100 pieces");
            else
                ok(sendmsg(ends[0], message, 0) == 160000, "sendmsg() of 100 pieces");
            memset(in, 0, 160000);
            drive_out();
            ok(recv(ends[1], in, 160000, 0) == 160000 && is_pattern(in, 160000), "is one");
        }
        close(ends[0]);
        close(ends[1]);
    }
    free(message);
    free(iov);
    free(in);
    free(out);
}

static void *sender_main(void *argument)
{
    struct copier *c = argument;
    struct iovec iov = {.iov_base = c->to, .iov_len = c->length};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    return (void *)sendmsg(c->from, &message, 0);
}

static void test_all_of_a_stream(void)
{
    char *out = absent(LARGE), *in = absent(LARGE);
    struct copier sender = {.to = out, .length = LARGE};
    struct iovec iov = {.iov_base = in, .iov_len = LARGE};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    pthread_t thread;
    void *sent = NULL;
    int ends[2];

    ok(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "a stream");
    sender.from = ends[0];
    for (int i = 0; i < 2; i++) {
        memset(in, 0, LARGE);
        pthread_create(&thread, NULL, sender_main, &sender);
        ok((i == 0 ? recv(ends[1], in, LARGE, MSG_WAITALL)
                   : recvmsg(ends[1], &message, MSG_WAITALL)) == (ssize_t)LARGE &&
               is_pattern(in, LARGE),
           i == 0 ? "recv() waits for all" : "recvmsg() waits for all");
        pthread_join(thread, &sent);
        ok((size_t)sent == LARGE, "sendmsg() waits until all is sent");
    }
    close(ends[0]);
    close(ends[1]);
    free(in);
    free(out);
}

static void test_direct(void)
{
    char *memory = absent(2 * MIB + 4096), *at = memory + 4096 - (uintptr_t)memory % 4096;
    int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_DIRECT, 0600);

    if (fd < 0) {
        free(memory);
        return;
    }
    for (size_t i = 0; i < 2 * MIB; i++)
        at[i] = (char)(i * 7 + i / 4096);
    drive_out();
    ok(pwrite(fd, at, 2 * MIB, 0) == (ssize_t)(2 * MIB), "pwrite(), O_DIRECT");
    memset(at, 0, 2 * MIB);
    drive_out();
    ok(pread(fd, at, 2 * MIB, 0) == (ssize_t)(2 * MIB) && is_pattern(at, 2 * MIB),
       "pread(), O_DIRECT");
    close(fd);
    free(memory);
}

/* ---- what a call that waits has, others may do as they like with ---- */

#define WAITERS 20

static char *waited_for; /* for each of them 128 KiB */
static int never[2];     /* a pipe without a writer that writes */

static void *waits(void *argument)
{
    char *buffer = waited_for + (size_t)argument * 128 * 1024;

    while (read(never[0], buffer, 128 * 1024) >= 0)
        continue;
    return NULL;
}

static void *ends_by_itself(void *argument)
{
    register long fourth __asm__("r10") = (long)argument;

    /* Registers that the call does not look at are as they were. */
    __asm__ volatile("syscall"
                     :
                     : "a"(SYS_exit), "D"(0), "S"(argument), "d"(argument), "r"(fourth)
                     : "rcx", "r11", "memory");
    return NULL;
}

static void test_waiting(void)
{
    size_t size = WAITERS * 128 * 1024UL;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t threads[WAITERS], thread;
    struct sigaction action = {.sa_handler = leave, .sa_flags = SA_NODEFER};
    struct itimerval soon = {.it_value = {.tv_usec = 1000}};

    waited_for = memory;
    ok(pipe(never) == 0, "a pipe");
    for (size_t i = 0; i < WAITERS; i++)
        pthread_create(&threads[i], NULL, waits, (void *)i);
    usleep(50000);
    drive_out();
    ok(stat(strcpy(memory + 10, "/"), &(struct stat){0}) == 0, "while many wait, a call is made");
    ok(madvise(memory, size, MADV_DONTNEED) == 0 && memory[10] == 0, "their memory is dropped");
    ok(write(never[1], "hello", 5) == 5, "they are given something");
    for (int i = 0; i < WAITERS; i++)
        pthread_cancel(threads[i]);
    for (int i = 0; i < WAITERS; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < 200; i++) { /* somewhere on its way into the call */
        pthread_create(&thread, NULL, waits, (void *)(i % WAITERS));
        for (volatile size_t spin = 0; spin < i * 200; spin++)
            continue;
        pthread_cancel(thread);
        pthread_join(thread, NULL);
    }
    pthread_create(&thread, NULL, ends_by_itself, memory);
    pthread_join(thread, NULL);
    sigaction(SIGALRM, &action, NULL);
    for (int i = 0; i < 50; i++) {
        setitimer(ITIMER_REAL, &soon, NULL);
        if (sigsetjmp(out_of_read, 1) == 0)
            read(never[0], memory, size);
    }
    ok(munmap(memory, size) == 0, "and when they have been left or cancelled, it is unmapped");
    close(never[0]);
    close(never[1]);
}

/* ---- children ---- */

static int ends_well(pid_t child)
{
    int *status = malloc(sizeof(*status)), well;

    *status = 1;
    drive_out();
    well = waitpid(child, status, 0) == child && *status == 0;
    free(status);
    return well;
}

static void test_children(void)
{
    posix_spawn_file_actions_t *actions = malloc(sizeof(*actions));
    char **argv = calloc(4, sizeof(*argv)), *text = absent(4096);
    FILE *stream;
    pid_t child;

    for (int i = 0; i < 40; i++) {
        char name[32];

        snprintf(name, sizeof(name), "CALLS_%d", i);
        setenv(name, "some value that is long enough to take room in the heap", 1);
    }
    argv[0] = strdup("sh");
    argv[1] = strdup("-c");
    argv[2] =
        strdup("test \"$CALLS_39\" = \"some value that is long enough to take room in the heap\"");
    posix_spawn_file_actions_init(actions);
    posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);
    drive_out();
    ok(posix_spawn(&child, "/bin/sh", actions, NULL, argv, environ) == 0 && ends_well(child),
       "posix_spawn()");
    posix_spawn_file_actions_destroy(actions);
    drive_out();
    child = vfork();
    if (child == 0) {
        execve("/bin/sh", argv, environ);
        _exit(9);
    }
    ok(child > 0 && ends_well(child), "vfork() and execve()");
    child = vfork();
    if (child == 0)
        __asm__ volatile("syscall" : : "a"(SYS_exit), "D"(0) : "rcx", "r11", "memory");
    ok(child > 0 && ends_well(child), "vfork() and the system call exit");
    drive_out();
    child = fork();
    if (child == 0) {
        execvp(argv[0], argv);
        _exit(9);
    }
    ok(child > 0 && ends_well(child), "fork() and execvp()");
    strcpy(text, argv[2]);
    drive_out();
    ok(system(text) == 0, "system()");
    strcpy(text, "echo hello");
    drive_out();
    stream = popen(text, "r");
    ok(stream != NULL && fgets(text, 100, stream) != NULL && strcmp(text, "hello\n") == 0,
       "popen()");
    ok(stream != NULL && pclose(stream) == 0, "pclose()");
    strcpy(text, "/nothing/is/here");
    drive_out();
    child = vfork();
    if (child == 0) {
        execve(text, argv, environ);
        _exit(errno == ENOENT ? 0 : 9);
    }
    ok(child > 0 && ends_well(child), "an execve() that fails");
    for (int i = 0; i < 3; i++)
        free(argv[i]);
    free(argv);
    free(text);
    free(actions);
}

int main(void)
{
    crowd = mmap(NULL, CROWD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    test_files();
    test_streams();
    test_names();
    test_pipes();
    test_messages();
    test_signals();
    test_pointers();
    test_letters();
    test_residence();
    test_inner();
    test_requests();
    test_random();
    test_futex();
    test_threads();
    test_records();
    test_all_of_a_stream();
    test_direct();
    test_waiting();
    test_children();
    return done_testing();
}
