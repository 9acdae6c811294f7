// Options of the commands of containers (command_table.h).
#pragma once

#include <array>

#include "src/engine/cli/option.h"

namespace vmm::engine::cli {

inline constexpr std::array kAttachOptions = {
    Option{0, "detach-keys", "string", "Override the key sequence for detaching a container"},
    Option{0, "no-stdin", "", "Do not attach STDIN"},
    Option{0, "sig-proxy", "", "Proxy all received signals to the process (default true)"},
};
inline constexpr std::array kCommitOptions = {
    Option{'a', "author", "string", "Author (e.g., \"Ada Lovelace <ada@example.com>\")"},
    Option{'c', "change", "list", "Apply Dockerfile instruction to the created image"},
    Option{'m', "message", "string", "Commit message"},
    Option{'p', "pause", "", "Pause container during commit (default true)"},
};
inline constexpr std::array kCopyOptions = {
    Option{'a', "archive", "", "Archive mode (copy all uid/gid information)"},
    Option{'L', "follow-link", "", "Always follow symbol link in SRC_PATH"},
    Option{'q', "quiet", "", "Suppress progress output during copy"},
};
inline constexpr std::array kExecOptions = {
    Option{'d', "detach", "", "Detached mode: run command in the background"},
    Option{0, "detach-keys", "string", "Override the key sequence for detaching a container"},
    Option{'e', "env", "list", "Set environment variables"},
    Option{0, "env-file", "list", "Read in a file of environment variables"},
    Option{'i', "interactive", "", "Keep STDIN open even if not attached"},
    Option{0, "privileged", "", "Give extended privileges to the command"},
    Option{'t', "tty", "", "Allocate a pseudo-TTY"},
    Option{'u', "user", "string", "Username or UID (format: \"<name|uid>[:<group|gid>]\")"},
    Option{'w', "workdir", "string", "Working directory inside the container"},
};
inline constexpr std::array kExportOptions = {
    Option{'o', "output", "string", "Write to a file, instead of STDOUT"},
};
inline constexpr std::array kForkOptions = {
    Option{0, "name", "string", "Assign a name to each copy: {n} in it is the copy's number"},
    Option{'n', "number", "int", "How many copies (1)"},
    Option{'p', "publish", "list",
           "Publish a copy's port(s) to the host: {n} is the copy's number"},
    Option{0, "rm", "", "Automatically remove a copy when it exits"},
};
inline constexpr std::array kKillOptions = {
    Option{'s', "signal", "string", "Signal to send to the container"},
};
inline constexpr std::array kLogsOptions = {
    Option{0, "details", "", "Show extra details provided to logs"},
    Option{'f', "follow", "", "Follow log output"},
    Option{
        0, "since", "string",
        "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for "
        "42 minutes)"},
    Option{'n', "tail", "string", "Number of lines to show from the end of the logs"},
    Option{'t', "timestamps", "", "Show timestamps"},
    Option{0, "until", "string",
           "Show logs before a timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" "
           "for 42 minutes)"},
};
inline constexpr std::array kPsOptions = {
    Option{'a', "all", "", "Show all containers (default shows just running)"},
    Option{'f', "filter", "filter", "Filter output based on conditions provided"},
    Option{0, "format", "string", "Format output using a Go template, or 'table', 'json'"},
    Option{'n', "last", "int", "Show n last created containers (includes all states)"},
    Option{'l', "latest", "", "Show the latest created container (includes all states)"},
    Option{0, "no-trunc", "", "Don't truncate output"},
    Option{'q', "quiet", "", "Only display container IDs"},
    Option{'s', "size", "", "Display total file sizes"},
};
inline constexpr std::array kContainerPruneOptions = {
    Option{0, "filter", "filter", "Provide filter values (e.g. \"until=24h\")"},
    Option{'f', "force", "", "Do not prompt for confirmation"},
};
inline constexpr std::array kSystemPruneOptions = {
    Option{'a', "all", "", "Remove all unused images not just dangling ones"},
    Option{0, "filter", "filter", "Provide filter values (e.g. \"label=<key>=<value>\")"},
    Option{'f', "force", "", "Do not prompt for confirmation"},
    Option{0, "volumes", "", ""},
};
inline constexpr std::array kRestartOptions = {
    Option{'s', "signal", "string", "Signal to send to the container"},
    Option{'t', "timeout", "int", "Seconds to wait before killing the container"},
    Option{0, "time", "int", "The same as --timeout"},
};
inline constexpr std::array kRmOptions = {
    Option{'f', "force", "", "Force the removal of a running container (uses SIGKILL)"},
    Option{'v', "volumes", "", "Remove anonymous volumes associated with the container"},
};
inline constexpr std::array kSnapshotListOptions = {
    Option{0, "format", "string", "Format output using a Go template, or 'table', 'json'"},
    Option{0, "no-trunc", "", "Don't truncate output"},
    Option{'q', "quiet", "", "Only display names"},
};
inline constexpr std::array kStartOptions = {
    Option{'a', "attach", "", "Attach STDOUT/STDERR and forward signals"},
    Option{0, "detach-keys", "string", "Override the key sequence for detaching a container"},
    Option{'i', "interactive", "", "Attach container's STDIN"},
};

inline constexpr std::array kStatsOptions = {
    Option{'a', "all", "", "Show all containers (default shows just running)"},
    Option{0, "format", "string", "Format output using a Go template, or 'table', 'json'"},
    Option{0, "no-stream", "", "Disable streaming stats and only pull the first result"},
    Option{0, "no-trunc", "", "Do not truncate output"},
};

inline constexpr std::array kFormatOptions = {
    Option{'f', "format", "string", "Format output using a Go template, or 'json'"},
};

// An empty help: an option of Docker's that is refused with a sentence of its own.
inline constexpr std::array kCreateOptions = {
    Option{0, "add-host", "list", "Add a custom host-to-IP mapping (host:ip)"},
    Option{0, "cap-add", "list", "Add Linux capabilities"},
    Option{0, "cap-drop", "list", "Drop Linux capabilities"},
    Option{0, "cidfile", "string", "Write the container ID to the file"},
    Option{0, "cold", "", "Boot the machine, instead of going on from a template of it"},
    Option{0, "cpus", "decimal", "Number of CPUs"},
    Option{'d', "detach", "", "Run container in background and print container ID"},
    Option{0, "detach-keys", "string", "Override the key sequence for detaching a container"},
    Option{0, "dns", "list", "Set custom DNS servers"},
    Option{0, "dns-search", "list", "Set custom DNS search domains"},
    Option{0, "entrypoint", "string", "Overwrite the default ENTRYPOINT of the image"},
    Option{'e', "env", "list", "Set environment variables"},
    Option{0, "env-file", "list", "Read in a file of environment variables"},
    Option{0, "expose", "list", "Expose a port or a range of ports"},
    Option{0, "from", "SNAPSHOT", "Go on from a snapshot of a container, in place of an image"},
    Option{0, "group-add", "list", "Add additional groups to join"},
    Option{'h', "hostname", "string", "Container host name"},
    Option{0, "init", "",
           "Run an init inside the container that forwards signals and reaps "
           "processes"},
    Option{'i', "interactive", "", "Keep STDIN open even if not attached"},
    Option{0, "kernel", "PATH", "Kernel of the container's machine"},
    Option{'l', "label", "list", "Set meta data on a container"},
    Option{0, "label-file", "list", "Read in a line delimited file of labels"},
    Option{0, "log-opt", "list", "Log options: max-size=100m, max-file=2"},
    Option{'m', "memory", "bytes", "Memory limit"},
    Option{0, "name", "string", "Assign a name to the container"},
    Option{0, "network", "string", "Connect the container to a network: default or none"},
    Option{0, "pids-limit", "int", "Tune container pids limit (-1 for unlimited)"},
    Option{0, "platform", "string", "Set platform if the image is pulled"},
    Option{0, "privileged", "", "Give extended privileges to this container"},
    Option{'p', "publish", "list", "Publish a container's port(s) to the host"},
    Option{'P', "publish-all", "", "Publish all exposed ports to random ports"},
    Option{0, "pull", "string", "Pull image before running (always, missing, never)"},
    Option{'q', "quiet", "", "Suppress the pull output"},
    Option{0, "read-only", "", "Mount the container's root filesystem as read only"},
    Option{0, "rm", "", "Automatically remove the container when it exits"},
    Option{0, "shm-size", "bytes", "Size of /dev/shm"},
    Option{0, "sig-proxy", "", "Proxy received signals to the process (default true)"},
    Option{0, "stop-signal", "string", "Signal to stop the container"},
    Option{0, "stop-timeout", "int", "Timeout (in seconds) to stop a container"},
    Option{0, "sysctl", "list", "Sysctl options"},
    Option{0, "tmpfs", "list", "Mount a tmpfs directory"},
    Option{'t', "tty", "", "Allocate a pseudo-TTY"},
    Option{0, "ulimit", "list", "Ulimit options"},
    Option{'u', "user", "string", "Username or UID (format: <name|uid>[:<group|gid>])"},
    Option{'w', "workdir", "string", "Working directory inside the container"},
    Option{'a', "attach", "list", ""},
    Option{0, "device", "list", ""},
    Option{0, "gpus", "string", ""},
    Option{0, "health-cmd", "string", ""},
    Option{0, "health-interval", "string", ""},
    Option{0, "health-retries", "string", ""},
    Option{0, "health-start-interval", "string", ""},
    Option{0, "health-start-period", "string", ""},
    Option{0, "health-timeout", "string", ""},
    Option{0, "ip", "string", ""},
    Option{0, "link", "list", ""},
    Option{0, "log-driver", "string", ""},
    Option{0, "mount", "list", ""},
    Option{0, "net", "string", ""},
    Option{0, "network-alias", "list", ""},
    Option{0, "no-healthcheck", "", ""},
    Option{0, "restart", "string", ""},
    Option{0, "security-opt", "list", ""},
    Option{'v', "volume", "list", ""},
    Option{0, "volumes-from", "list", ""},
};

}  // namespace vmm::engine::cli
