// Http: one request after another, by libcurl. An object a thread.
//
//   Http http;
//   const auto response = TRY(http.send({.url = "https://registry/v2/"}));
//   if (response.status == 401) ...
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/progress.h"
#include "src/base/result.h"

namespace vmm::engine {

struct HttpResponse {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case; the last of a name
  std::string body;                            // of what went to no callback
};

enum class HttpMethod : std::uint8_t { get, head, post, put };

// The content of a request: a text, or a part of a file.
struct HttpContent {
  std::string_view text;
  int file = -1;           // a descriptor of one, instead of the text
  std::uint64_t size = 0;  // bytes of the file, from its beginning
};

struct HttpRequest {
  HttpMethod method = HttpMethod::get;
  std::string url;
  std::vector<std::string> headers;  // "Accept: text/plain"
  std::uint64_t offset = 0;          // asks for the rest from here on (Range)
  HttpContent content;               // of a put
  std::size_t most_body = 8u << 20;  // more is an error
  // Of the content as it is sent. Once it is cancelled the request ends, within a second where
  // nothing comes or goes.
  Progress* progress = nullptr;
  // Gets the body of an answer with status 200 or 206, piece by piece, instead.
  std::function<Result<void>(const HttpResponse& head, std::span<const std::byte> piece)> on_body;
};

class Http {
 public:
  // No byte for `patience` is an error, and so is a connection that takes as long.
  explicit Http(std::chrono::seconds patience = std::chrono::seconds(30));
  Http(Http&&) noexcept;
  ~Http();

  // Follows redirects; none leads from https to http. Plain http is for addresses of this machine
  // alone. Error: no answer, or the callback's.
  Result<HttpResponse> send(const HttpRequest& request);

 private:
  struct Handle;
  std::unique_ptr<Handle> handle_;
  std::chrono::seconds patience_;
};

// Whether "HOST", "HOST:PORT" is this machine.
bool is_loopback(std::string_view host);

}  // namespace vmm::engine
