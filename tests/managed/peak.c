/* peak FILE COMMAND…: run the command, and write to FILE how many KiB it, or a process that it started
 * and waited for, had resident at its peak. The exit status is the command's. */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct rusage usage;
    int status = 0;
    FILE *out;
    pid_t pid;

    if (argc < 3)
        return 125;
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[2], argv + 2);
        perror(argv[2]);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || getrusage(RUSAGE_CHILDREN, &usage) != 0)
        return 125;
    out = fopen(argv[1], "w");
    if (out == NULL)
        return 125;
    fprintf(out, "%ld\n", usage.ru_maxrss);
    if (fclose(out) != 0)
        return 125;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
