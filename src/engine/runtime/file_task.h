// Work of a machine's agent with the files of its container (agent::FileTask), for commands:
// blocking. What the machine says is hostile: errors are as long as a line, streams are checked by
// who takes them, and one that does not go on is given up.
//
//   TRY(read_files(directory, {.kind = Kind::pack, .path = "/etc", .name = "etc"}, take));
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "src/files/packer.h"
#include "src/protocol/files.h"

namespace vmm::engine {

// How long the machine may neither say nor take anything, however long the whole takes.
inline constexpr std::chrono::milliseconds kFilePatience = std::chrono::seconds(60);

using TakeFile = std::function<Result<void>(const protocol::agent::Message&)>;

// `take` hears each message of the stream but its end. Error: of the task, or of `take`.
Result<void> read_files(const std::string& directory, const protocol::agent::FileTask& task,
                        const TakeFile& take, std::chrono::milliseconds patience = kFilePatience);
// `produce` sends the stream with its end.
Result<void> write_files(const std::string& directory, const protocol::agent::FileTask& task,
                         const std::function<Result<void>(const files::Send&)>& produce,
                         std::chrono::milliseconds patience = kFilePatience);
// None: there is no such file.
Result<std::optional<protocol::files::Entry>> examine_file(const std::string& directory,
                                                           const std::string& path, bool follow);

}  // namespace vmm::engine
