// SerialSpec: where a serial console goes, as typed fields.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/spec/fields.h"

namespace vmm::chardev {

enum class Kind {
  stdio,   // the terminal, in raw mode, or whatever standard input and output are
  none,    // no serial port
  file,    // output only; the file is made or appended to
  pty,     // a new pseudo-terminal
  socket,  // a Unix socket that one client at a time connects to
};

struct SerialSpec {
  static constexpr std::uint64_t kMax = 16 << 20;

  Kind kind = Kind::stdio;
  std::string path;          // of file and socket
  std::uint64_t max = kMax;  // bytes of a file, before it becomes PATH.1; 0: no limit
  friend bool operator==(const SerialSpec&, const SerialSpec&) = default;
};

// In JSON: {"kind": "file", "path": "console", "max": 1048576}.
spec::Fields fields_of(SerialSpec& spec);
// "stdio", "none", "pty", "file:PATH[,max=SIZE|off]", "socket:PATH". Other commas are the path's.
Result<SerialSpec> parse_serial_spec(std::string_view text);

}  // namespace vmm::chardev
