// For tests: a server of HTTP on this machine that answers, breaks off and stalls as a test says.
#pragma once

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "src/base/unique_fd.h"

namespace vmm::engine {

struct TestRequest {
  std::string method, path, head;  // all lines, with the first
  std::string body;
  bool has(std::string_view text) const { return head.find(text) != std::string::npos; }
};

struct TestReply {
  int status = 200;
  std::string body;
  std::string headers;                   // "Name: value\r\n"
  std::size_t sent = std::string::npos;  // breaks off after as many bytes of the body
  bool stalls = false;                   // then, instead of closing
  bool closes = false;                   // without an answer
};

class TestServer {
 public:
  using Handler = std::function<TestReply(const TestRequest&)>;

  explicit TestServer(Handler handler) : handler_(std::move(handler)) {
    listener_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* const name = reinterpret_cast<sockaddr*>(&address);
    if (::bind(listener_.get(), name, size) < 0 || ::listen(listener_.get(), 16) < 0 ||
        ::getsockname(listener_.get(), name, &size) < 0 || ::pipe2(end_.data(), O_CLOEXEC) < 0) {
      std::abort();
    }
    host_ = fmt::format("127.0.0.1:{}", ntohs(address.sin_port));
    thread_ = std::jthread([this] { serve(); });
  }
  TestServer(const TestServer&) = delete;
  ~TestServer() {
    ::close(end_[1]);
    thread_.join();
    ::close(end_[0]);
  }

  const std::string& host() const { return host_; }
  std::vector<TestRequest> requests() {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  // Whether there is something to read, before the test ends.
  bool wait(int fd) const {
    std::array<pollfd, 2> fds = {pollfd{fd, POLLIN, 0}, pollfd{end_[0], POLLIN, 0}};
    return ::poll(fds.data(), fds.size(), -1) > 0 && fds[1].revents == 0;
  }

  void serve() {
    std::vector<std::jthread> connections;
    while (wait(listener_.get())) {
      // check: accepted-connections allowed, of a test
      UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      connections.emplace_back([this, fd = std::move(fd)] { answer(fd.get()); });
    }
  }

  void answer(int fd) {
    TestRequest request;
    std::array<char, 4096> buffer{};
    while (!request.has("\r\n\r\n")) {
      if (!wait(fd)) return;
      const auto n = ::recv(fd, buffer.data(), buffer.size(), 0);
      if (n <= 0) return;
      request.head.append(buffer.data(), static_cast<std::size_t>(n));
      if (std::isupper(static_cast<unsigned char>(request.head[0])) == 0) return;  // TLS
    }
    const auto head_size = request.head.find("\r\n\r\n") + 4;
    request.body = request.head.substr(head_size);
    request.head.resize(head_size);
    const auto begin = request.head.find(' ') + 1;
    request.method = request.head.substr(0, begin - 1);
    request.path = request.head.substr(begin, request.head.find(' ', begin) - begin);
    const auto length = request.head.find("Content-Length: ");
    const auto size =
        length == std::string::npos ? 0 : std::strtoul(&request.head[length + 16], nullptr, 10);
    if (request.has("Expect: 100-continue")) {
      constexpr std::string_view kGoOn = "HTTP/1.1 100 Continue\r\n\r\n";
      if (::send(fd, kGoOn.data(), kGoOn.size(), MSG_NOSIGNAL) < 0) return;
    }
    while (request.body.size() < size) {
      const auto n = ::recv(fd, buffer.data(), buffer.size(), 0);
      if (n <= 0) return;
      request.body.append(buffer.data(), static_cast<std::size_t>(n));
    }
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    const auto reply = handler_(request);
    if (reply.closes) return;
    const auto text =
        fmt::format("HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n{}\r\n",
                    reply.status, reply.body.size(), reply.headers) +
        (request.method == "HEAD" ? "" : reply.body.substr(0, reply.sent));
    for (std::size_t at = 0; at < text.size();) {
      const auto n = ::send(fd, text.data() + at, text.size() - at, MSG_NOSIGNAL);
      if (n <= 0) return;
      at += static_cast<std::size_t>(n);
    }
    while (reply.stalls && wait(fd)) {
      if (::recv(fd, buffer.data(), buffer.size(), 0) <= 0) return;
    }
  }

  Handler handler_;
  UniqueFd listener_;
  std::array<int, 2> end_{};
  std::string host_;
  std::mutex mutex_;
  std::vector<TestRequest> requests_;
  std::jthread thread_;
};

}  // namespace vmm::engine
