// SerialSpec: where a serial console goes, as typed fields.
#pragma once

#include <string>
#include <string_view>

#include "src/base/result.h"

namespace vmm::chardev {

enum class Kind {
  stdio,   // the terminal, in raw mode, or whatever standard input and output are
  none,    // no serial port
  file,    // output only; the file is made or emptied
  pty,     // a new pseudo-terminal
  socket,  // a Unix socket that one client at a time connects to
};

struct SerialSpec {
  Kind kind = Kind::stdio;
  std::string path;  // of file and socket
};

// "stdio", "none", "pty", "file:PATH", "socket:PATH".
Result<SerialSpec> parse_serial_spec(std::string_view text);
std::string format_serial_spec(const SerialSpec& spec);

}  // namespace vmm::chardev
