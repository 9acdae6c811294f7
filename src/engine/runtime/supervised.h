// Supervised: the container of a supervisor, from its lock to its end (supervisor.h has the order).
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <string>

#include "src/base/acceptor.h"
#include "src/base/unix_socket.h"
#include "src/engine/runtime/agent_process.h"
#include "src/engine/runtime/container.h"
#include "src/engine/runtime/log_writer.h"
#include "src/engine/runtime/machine_template.h"
#include "src/engine/runtime/monitor.h"
#include "src/engine/runtime/session.h"

namespace vmm::engine {

class Supervised {
 public:
  Supervised(EventLoop& loop, std::string root, std::string id);

  void connect(UniqueFd client);
  void begin();
  // By the container's stop signal and time.
  void stop();

 private:
  enum class Phase : std::uint8_t {
    waiting,   // for the lock, which another command holds
    starting,  // until the agent has started the process
    running,
    ending,  // the machine is about to end
    over     // the end is written; the sessions hear of it
  };

  Result<std::optional<ContainerLock>> take_lock();
  void look_for_lock();
  Result<void> prepare(ContainerLock lock);
  Result<void> start_machine();
  void expect_agent();
  bool boot_instead(const std::string& why);
  void give_up_waiting();
  // The machine that runs, as its template does not work.
  bool is_given_up() const { return template_ && failed_template_; }
  void guest_runs();
  Result<void> listen();
  void make_process();
  void look_for_agent();
  void agent_found(UniqueFd socket);
  void machine_answered(const protocol::agent::Message& message);
  void process_started();
  void note_template();
  static void note_working_set(const std::string& origin);
  void process_failed(const protocol::agent::Failed& failed);
  void process_exited(const protocol::agent::Exited& exited);
  void process_output(wire::Stream stream, std::string_view bytes);
  void process_lost();

  void hear(Session& session, const protocol::agent::Message& message);
  void leave(Session& session);
  void balance();
  void signal(int number);
  void stop(int number, std::optional<std::uint32_t> seconds);

  void read_errors();
  void machine_ended();
  void end_machine();
  void kill_machine();
  void kill_machine_after(std::chrono::seconds time);
  void fail_start(int code, const std::string& text);
  void conclude();
  Result<void> write_end();
  void stop_when_told();

  EventLoop& loop_;
  const std::string root_, id_, directory_;
  std::optional<ContainerLock> lock_;
  Container container_;
  std::optional<UnixListener> listener_;
  std::optional<Acceptor> acceptor_;
  std::list<std::unique_ptr<Session>> sessions_;
  std::optional<LogWriter> log_;

  Monitor monitor_;
  std::unique_ptr<Watch> monitor_watch_, errors_watch_, ready_watch_;
  MachineFiles files_;
  std::string monitor_program_;
  std::optional<TemplateRecipe> recipe_;             // none: this machine boots, whatever there is
  std::optional<MachineTemplates::Found> template_;  // that the machine goes on from
  std::optional<std::string> snapshot_;  // or the path of a container's, with its process
  struct FailedTemplate {
    MachineTemplates::Found which;
    std::string why;
  };
  std::optional<FailedTemplate> failed_template_;  // so that the machine boots
  std::string errors_;                             // the last of what the machine said
  std::unique_ptr<AgentLink> link_;
  std::unique_ptr<Channel> machine_;
  std::unique_ptr<AgentProcess> process_;
  unsigned answers_ = 0;
  EventLoop::Clock::time_point lock_deadline_;
  std::chrono::milliseconds retry_{};

  Phase phase_ = Phase::waiting;
  std::uint64_t kept_signals_ = 0;  // that came before the process ran
  bool started_ = false;            // the process ran
  bool process_over_ = true;        // nothing of it is to come
  bool machine_over_ = true;        // reaped
  std::optional<int> failed_code_;  // of a start that failed
  std::optional<ContainerEnd> end_;
};

}  // namespace vmm::engine
