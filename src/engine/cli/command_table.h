// The commands of the engine as data: help, `vmm help`, and whatever else lists commands and their
// options, come from here. No code of the engine: the monitor's program includes it too.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "src/engine/cli/container_options.h"
#include "src/engine/cli/option.h"

namespace vmm::engine::cli {

struct Command {
  std::string_view name;     // "images", "image prune"
  std::string_view alias;    // another name of it: "image ls"; "": none
  std::string_view form;     // "[OPTIONS] [REPOSITORY[:TAG]]"
  std::string_view summary;  // "List images"
  std::size_t least, most;   // names
  std::span<const Option> options;
  bool ends_at_name = false;  // what follows the first name is not for us
  // What there is to say besides: paragraphs, without line ends, with `code` between backquotes.
  std::span<const std::string_view> paragraphs = {};
  std::string_view instead = {};  // an option that stands in place of the names
};

inline constexpr std::size_t kAnyNumber = 10'000;

inline constexpr std::array kHistoryOptions = {
    Option{0, "format", "string", "Format output using a Go template, or 'table', 'json'"},
    Option{'H', "human", "", "Print sizes and dates in human readable format (default)"},
    Option{0, "no-trunc", "", "Don't truncate output"},
    Option{'q', "quiet", "", "Only show image IDs"},
};
inline constexpr std::array kImagesOptions = {
    Option{'a', "all", "", "Show all images (there are no hidden ones)"},
    Option{0, "digests", "", "Show digests"},
    Option{'f', "filter", "filter", "Filter output based on conditions provided"},
    Option{0, "format", "string", "Format output using a Go template, or 'table', 'json'"},
    Option{0, "no-trunc", "", "Don't truncate output"},
    Option{'q', "quiet", "", "Only show image IDs"},
};
inline constexpr std::array kImportOptions = {
    Option{'m', "message", "string", "Set commit message for imported image"},
    Option{0, "platform", "string", "Set platform, such as linux/arm64"},
};
inline constexpr std::array kInspectOptions = {
    Option{'f', "format", "string", "Format output using a Go template, or 'json'"},
};
inline constexpr std::array kLoadOptions = {
    Option{'i', "input", "string", "Read from tar archive file, instead of STDIN"},
    Option{'q', "quiet", "", "Suppress the load output"},
};
inline constexpr std::array kLoginOptions = {
    Option{'p', "password", "string", "Password or Personal Access Token (PAT)"},
    Option{0, "password-stdin", "", "Take the Password or Personal Access Token from stdin"},
    Option{'u', "username", "string", "Username"},
};
inline constexpr std::array kPruneOptions = {
    Option{'a', "all", "", "Remove all unused images, not just dangling ones"},
    Option{0, "filter", "filter", "Provide filter values (such as 'until=24h')"},
    Option{'f', "force", "", "Do not prompt for confirmation"},
};
inline constexpr std::array kPullOptions = {
    Option{0, "platform", "string", "Set platform, such as linux/arm64 (the host's)"},
    Option{'q', "quiet", "", "Suppress verbose output"},
};
inline constexpr std::array kPushOptions = {
    Option{'a', "all-tags", "", "Push all tags of an image to the repository"},
    Option{'q', "quiet", "", "Suppress verbose output"},
};
inline constexpr std::array kRemoveOptions = {
    Option{'f', "force", "", "Force removal of the image"},
};
inline constexpr std::array kSaveOptions = {
    Option{'o', "output", "string", "Write to a file, instead of STDOUT"},
};

inline constexpr std::array<std::string_view, 2> kCommitParagraphs = {
    "The container may run, be paused or be stopped. One that runs stands still while its files "
    "are "
    "read, unless --pause=false. What lies in mounts is not part of the image.",
    "--change takes the instructions `CMD`, `ENTRYPOINT`, `ENV`, `EXPOSE`, `HEALTHCHECK`, `LABEL`, "
    "`ONBUILD`, `STOPSIGNAL`, `USER`, `VOLUME` and `WORKDIR`.",
};
inline constexpr std::array<std::string_view, 4> kCopyParagraphs = {
    "The container may run, be paused or be stopped. A directory is copied with all that is in it: "
    "into DEST_PATH if that is a directory, and under that name if there is none.",
    "A SRC_PATH that ends in `/.` is what is in the directory, without the directory itself: "
    "`vmm cp web:/etc/. here` copies /etc/passwd to here/passwd.",
    "`-` in place of a path of the host is a tar archive on a standard stream: as SRC_PATH it is "
    "unpacked into the directory DEST_PATH, compressed or not; as DEST_PATH it is written. "
    "`vmm cp web:/etc - | tar -t` lists files.",
    "A symbolic link is copied as a link. Copies in a container belong to root, and on the host to "
    "whoever runs the command, unless --archive keeps their owners. A path that begins with `./` "
    "or "
    "`/` is one of the host even if it has a colon.",
};
inline constexpr std::array<std::string_view, 2> kDiffParagraphs = {
    "A line is a letter and a path: `A` for what was added to the image's files, `C` for what was "
    "changed, `D` for what was deleted. A directory is changed when something in it is.",
    "What lies in mounts, such as /proc and /dev, is no change.",
};
inline constexpr std::array<std::string_view, 1> kExportParagraphs = {
    "The archive has all files of the container, its image's too, but nothing that lies in mounts. "
    "`vmm import` makes an image of it, without the image's configuration; `vmm commit` keeps "
    "that.",
};

inline constexpr std::array<std::string_view, 2> kForkParagraphs = {
    "A copy goes on where the container is: its processes, memory and files are those of the "
    "moment, and later changes are its own. Name, host name and machine are new, and so are "
    "/etc/hosts, /etc/hostname and /etc/resolv.conf; connections to the outside are broken. The "
    "container runs on.",
    "No port of a copy is published but by --publish: `vmm fork -n 3 -p 808{n}:80 web` makes three "
    "copies at the ports 8081, 8082 and 8083.",
};
inline constexpr std::array<std::string_view, 2> kRunParagraphs = {
    "With --from there is neither IMAGE nor COMMAND: the container goes on from a snapshot "
    "(`vmm snapshot create`), whose process runs already. Options of the process and of the "
    "machine do "
    "not go with it.",
    "The first run of a kind of machine boots, later ones go on from a template of it, unless "
    "--cold.",
};
inline constexpr std::array<std::string_view, 2> kSnapshotCreateParagraphs = {
    "Saves memory and files of a running container, of one moment; it runs on. `vmm run --from "
    "NAME` goes on from there, as often as you like and beside it. Ctrl-C cancels it, and nothing "
    "of it is left.",
    "Whoever has the snapshot has what was in the container's memory, passwords among it.",
};
inline constexpr std::array<std::string_view, 1> kSnapshotRemoveParagraphs = {
    "One of which containers are made stays as long as they are there: their files are layers over "
    "it.",
};

inline constexpr std::array kCommands = {
    Command{"attach", "container attach", "[OPTIONS] CONTAINER",
            "Attach local standard input, output, and error streams to a running container", 1, 1,
            kAttachOptions},
    Command{"commit", "container commit", "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
            "Create a new image from a container's changes", 1, 2, kCommitOptions, false,
            kCommitParagraphs},
    Command{"container prune", "", "[OPTIONS]", "Remove all stopped containers", 0, 0,
            kContainerPruneOptions},
    Command{"cp", "container cp", "[OPTIONS] [CONTAINER:]SRC_PATH|- [CONTAINER:]DEST_PATH|-",
            "Copy files/folders between a container and the local filesystem", 2, 2, kCopyOptions,
            false, kCopyParagraphs},
    Command{"create", "container create", "[OPTIONS] IMAGE [COMMAND] [ARG...]",
            "Create a new container", 1, kAnyNumber, kCreateOptions, true, kRunParagraphs, "from"},
    Command{"diff",
            "container diff",
            "CONTAINER",
            "Inspect changes to files or directories on a container's filesystem",
            1,
            1,
            {},
            false,
            kDiffParagraphs},
    Command{"exec", "container exec", "[OPTIONS] CONTAINER COMMAND [ARG...]",
            "Execute a command in a running container", 2, kAnyNumber, kExecOptions, true},
    Command{"export", "container export", "[OPTIONS] CONTAINER",
            "Export a container's filesystem as a tar archive", 1, 1, kExportOptions, false,
            kExportParagraphs},
    Command{"fork", "container fork", "[OPTIONS] CONTAINER",
            "Start copies of a running container, as it is", 1, 1, kForkOptions, false,
            kForkParagraphs},
    Command{"history", "image history", "[OPTIONS] IMAGE", "Show the history of an image", 1, 1,
            kHistoryOptions},
    Command{"image inspect", "", "[OPTIONS] IMAGE [IMAGE...]",
            "Display detailed information on one or more images", 1, kAnyNumber, kInspectOptions},
    Command{"image prune", "", "[OPTIONS]", "Remove unused images", 0, 0, kPruneOptions},
    Command{"images", "image ls", "[OPTIONS] [REPOSITORY[:TAG]]", "List images", 0, 1,
            kImagesOptions},
    Command{"import", "image import", "[OPTIONS] file|- [REPOSITORY[:TAG]]",
            "Import the contents from a tarball to create a filesystem image", 1, 2,
            kImportOptions},
    Command{"info", "system info", "[OPTIONS]", "Display system-wide information", 0, 0,
            kFormatOptions},
    Command{"inspect", "", "[OPTIONS] NAME|ID [NAME|ID...]",
            "Return low-level information on containers or images", 1, kAnyNumber, kInspectOptions},
    Command{"kill", "container kill", "[OPTIONS] CONTAINER [CONTAINER...]",
            "Kill one or more running containers", 1, kAnyNumber, kKillOptions},
    Command{"load", "image load", "[OPTIONS]", "Load an image from a tar archive or STDIN", 0, 0,
            kLoadOptions},
    Command{"login", "", "[OPTIONS] [SERVER]", "Authenticate to a registry", 0, 1, kLoginOptions},
    Command{"logout", "", "[SERVER]", "Log out from a registry", 0, 1, {}},
    Command{"logs", "container logs", "[OPTIONS] CONTAINER", "Fetch the logs of a container", 1, 1,
            kLogsOptions},
    Command{"pause",
            "container pause",
            "CONTAINER [CONTAINER...]",
            "Pause all processes within one or more containers",
            1,
            kAnyNumber,
            {}},
    Command{"port",
            "container port",
            "CONTAINER [PRIVATE_PORT[/PROTO]]",
            "List port mappings or a specific mapping for the container",
            1,
            2,
            {}},
    Command{"ps", "container ls", "[OPTIONS]", "List containers", 0, 0, kPsOptions},
    Command{"pull", "image pull", "[OPTIONS] NAME[:TAG|@DIGEST]",
            "Download an image from a registry", 1, 1, kPullOptions},
    Command{"push", "image push", "[OPTIONS] NAME[:TAG]", "Upload an image to a registry", 1, 1,
            kPushOptions},
    Command{"rename", "container rename", "CONTAINER NEW_NAME", "Rename a container", 2, 2, {}},
    Command{"restart", "container restart", "[OPTIONS] CONTAINER [CONTAINER...]",
            "Restart one or more containers", 1, kAnyNumber, kRestartOptions},
    Command{"rm", "container rm", "[OPTIONS] CONTAINER [CONTAINER...]",
            "Remove one or more containers", 1, kAnyNumber, kRmOptions},
    Command{"rmi", "image rm", "[OPTIONS] IMAGE [IMAGE...]", "Remove one or more images", 1,
            kAnyNumber, kRemoveOptions},
    Command{"run", "container run", "[OPTIONS] IMAGE [COMMAND] [ARG...]",
            "Create and run a new container from an image", 1, kAnyNumber, kCreateOptions, true,
            kRunParagraphs, "from"},
    Command{"save", "image save", "[OPTIONS] IMAGE [IMAGE...]",
            "Save one or more images to a tar archive (streamed to STDOUT by default)", 1,
            kAnyNumber, kSaveOptions},
    Command{"snapshot create",
            "",
            "CONTAINER NAME",
            "Save a running container as a starting point",
            2,
            2,
            {},
            false,
            kSnapshotCreateParagraphs},
    Command{"snapshot inspect", "", "[OPTIONS] NAME [NAME...]",
            "Display detailed information on one or more containers' snapshots", 1, kAnyNumber,
            kInspectOptions},
    Command{"snapshot ls", "", "[OPTIONS]", "List snapshots of containers", 0, 0,
            kSnapshotListOptions},
    Command{"snapshot rm",
            "",
            "NAME [NAME...]",
            "Remove one or more snapshots of containers",
            1,
            kAnyNumber,
            {},
            false,
            kSnapshotRemoveParagraphs},
    Command{"start", "container start", "[OPTIONS] CONTAINER [CONTAINER...]",
            "Start one or more stopped containers", 1, kAnyNumber, kStartOptions},
    Command{"stats", "container stats", "[OPTIONS] [CONTAINER...]",
            "Display a live stream of container(s) resource usage statistics", 0, kAnyNumber,
            kStatsOptions},
    Command{"stop", "container stop", "[OPTIONS] CONTAINER [CONTAINER...]",
            "Stop one or more running containers", 1, kAnyNumber, kRestartOptions},
    Command{"system df", "", "[OPTIONS]", "Show disk usage of images and containers", 0, 0,
            kFormatOptions},
    Command{"system prune", "", "[OPTIONS]", "Remove unused data", 0, 0, kSystemPruneOptions},
    Command{"tag",
            "image tag",
            "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
            "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
            2,
            2,
            {}},
    Command{"top",
            "container top",
            "CONTAINER",
            "Display the running processes of a container",
            1,
            1,
            {}},
    Command{"unpause",
            "container unpause",
            "CONTAINER [CONTAINER...]",
            "Unpause all processes within one or more containers",
            1,
            kAnyNumber,
            {}},
    Command{"version", "", "[OPTIONS]", "Show the version information", 0, 0, kFormatOptions},
    Command{"wait",
            "container wait",
            "CONTAINER [CONTAINER...]",
            "Block until one or more containers stop, then print their exit codes",
            1,
            kAnyNumber,
            {}},
};

// Whether the engine has a command that begins with this word.
constexpr bool is_engine_word(std::string_view word) {
  for (const auto& command : kCommands) {
    const auto first = command.name.substr(0, command.name.find(' '));
    if (word == first) return true;
  }
  return false;
}

// "[OPTIONS] --from SNAPSHOT", of a command with an option in place of its names; else "".
inline std::string other_form(const Command& command) {
  for (const auto& option : command.options) {
    if (option.name == command.instead) {
      return "[OPTIONS] --" + std::string(option.name) + " " + std::string(option.value);
    }
  }
  return {};
}

// The command that the words begin with, and how many of them name it: "images", "image ls".
struct Named {
  const Command* command = nullptr;
  std::size_t words = 0;
};
inline Named find_command(std::span<const std::string> words) {
  for (const std::size_t count : {2u, 1u}) {
    if (words.size() < count) continue;
    const auto name = count == 1 ? words[0] : words[0] + " " + words[1];
    for (const auto& command : kCommands) {
      if (command.name == name || command.alias == name) return {&command, count};
    }
  }
  return {};
}

// Whether the words behind a command's name ask for its help: --help, or -h where that is no
// option with a value. Not what belongs to an option, or is a container's own.
inline bool asks_for_help(const Command& command, std::span<const std::string> words) {
  const auto takes_value = [&command](auto member, auto name) {
    for (const auto& option : command.options) {
      if (option.*member == name) return option.kind != OptionKind::flag;
    }
    return false;
  };
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string_view word = words[i];
    const bool is_last = i + 1 == words.size();
    if (word == "--" || (command.ends_at_name && !word.starts_with('-'))) return false;
    if (word == "--help" || (word == "-h" && (is_last || !takes_value(&Option::letter, 'h')))) {
      return true;
    }
    const bool is_long = word.starts_with("--");
    if (is_long ? !word.contains('=') && takes_value(&Option::name, word.substr(2))
                : word.size() == 2 && word[0] == '-' && takes_value(&Option::letter, word[1])) {
      ++i;  // its value
    }
  }
  return false;
}

}  // namespace vmm::engine::cli
