// The whole agent, through its socket: as a child of the test with a root made of busybox, or
// (VMM_AGENT_VSOCK: the monitor's socket of a guest's vsock) as the first process of a machine
// whose disk is such a root.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <thread>

#include "guest-images/agent/client_for_test.h"
#include "src/protocol/files.h"

namespace vmm::agent::test {
namespace {

namespace fs = std::filesystem;
using agent::Exited;
using agent::Failed;
using agent::Kind;
using agent::Start;
using agent::Started;

const char* vsock_of_guest() { return ::getenv("VMM_AGENT_VSOCK"); }

// Why no container can be made here, or "".
std::string obstacle() {
  if (::getuid() != 0) return "namespaces take root";
  if (::getenv("VMM_AGENT") == nullptr) return "VMM_AGENT does not name the agent";
  if (::access("/bin/busybox", X_OK) < 0) return "there is no /bin/busybox for the root";
  const pid_t child = ::fork();
  if (child == 0) ::_exit(::unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWCGROUP) == 0 ? 0 : 1);
  int status = 0;
  ::waitpid(child, &status, 0);
  return status == 0 ? "" : "this machine forbids namespaces";
}

// Of busybox; tests/vm/agent.py makes the same on a disk.
void make_root(const fs::path& root) {
  for (const char* folder : {"bin", "etc", "tmp", "proc", "sys", "dev", "root"}) {
    fs::create_directories(root / folder);
  }
  fs::copy_file("/bin/busybox", root / "bin/busybox");
  for (const char* name :
       {"sh", "cat",  "head",  "id",       "stty", "tty",  "sleep", "grep", "kill", "ls", "ps",
        "wc", "tail", "touch", "hostname", "stat", "true", "mount", "dd",   "date", "ip"}) {
    fs::create_symlink("busybox", root / "bin" / name);
  }
  std::ofstream(root / "etc/passwd")
      << "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv/web:/bin/sh\n";
  std::ofstream(root / "etc/group") << "root:x:0:\nwww:x:34:\nmedia:x:44:web\n";
  std::ofstream(root / "etc/plain") << "not a program\n";
}

// The agent, and one container in it.
class Agent : public ::testing::Test {
 protected:
  void SetUp() override {
    if (vsock_of_guest() != nullptr) {
      socket_ = vsock_of_guest();
      static const bool mounted = [&] {
        const auto machine = open(Kind::machine, {});
        machine->say(agent::MountRoot{"/dev/vda", ::getenv("VMM_AGENT_IMAGE_TYPE"), "/dev/vdb"});
        const agent::Message answer = machine->hear();
        return answer.type == agent::Done::kType || answer.fields.contains("mounted already");
      }();
      ASSERT_TRUE(mounted) << "the container's root";
      return;
    }
    if (const std::string why = obstacle(); !why.empty()) GTEST_SKIP() << why;
    std::string name = "/tmp/vmm-agent.XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    make_root(folder_ / "root");
    socket_ = folder_ / "agent";
    const std::string listen = "unix:" + socket_, root = folder_ / "root",
                      files = folder_ / "files";
    child_ = ::fork();
    if (child_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      std::vector<const char*> words = {"vmm-agent",  "--listen", listen.c_str(), "--root",
                                        root.c_str(), "--files",  files.c_str()};
      for (const auto& word : more_words_) words.push_back(word.c_str());
      words.push_back(nullptr);
      ::execv(::getenv("VMM_AGENT"), const_cast<char**>(words.data()));
      ::_exit(127);
    }
    while (!fs::exists(socket_) && ::waitpid(child_, nullptr, WNOHANG) == 0) ::sched_yield();
  }

  void TearDown() override {
    end_container();
    if (child_ > 0) {
      ::kill(child_, SIGTERM);
      int status = 0;
      ::waitpid(child_, &status, 0);
      EXPECT_EQ(status, 0) << "the agent's own end";
    }
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  std::unique_ptr<Connection> connect() {
    return std::make_unique<Connection>(socket_, vsock_of_guest() != nullptr);
  }
  std::unique_ptr<Connection> open(Kind kind, const agent::ProcessId& id) {
    auto connection = connect();
    EXPECT_EQ(connection->greet(kind, id), kind);
    return connection;
  }

  struct Running {
    agent::ProcessId id;
    std::unique_ptr<Connection> control, input, output, error, terminal;
    pid_t pid = 0;  // as the agent knows it
  };

  static Start shell(std::string script) {
    Start start;
    start.arguments = {"sh", "-c", std::move(script)};
    start.environment = {"PATH=/bin"};
    start.container.emplace();
    start.container->host_name = "box";
    return start;
  }
  static Start beside(std::string script) {
    Start start = shell(std::move(script));
    start.container.reset();
    return start;
  }

  // Only the control connection.
  Running begin(const Start& start) {
    Running running{new_process_id(), {}, {}, {}, {}, {}, 0};
    running.control = open(Kind::control, running.id);
    running.control->say(start);
    running.pid = static_cast<pid_t>(running.control->expect<Started>().pid);
    if (start.container) first_ = running.id;
    return running;
  }
  Running run(const Start& start) {
    Running running = begin(start);
    if (start.terminal) {
      running.terminal = open(Kind::terminal, running.id);
      return running;
    }
    if (start.input) running.input = open(Kind::standard_input, running.id);
    running.output = open(Kind::standard_output, running.id);
    running.error = open(Kind::standard_error, running.id);
    return running;
  }
  struct Result {
    std::string output, error;
    Exited exited;
  };
  Result finish(Running& running) {
    Result result;
    if (running.terminal) result.output = running.terminal->read_all();
    if (running.output) result.output = running.output->read_all();
    if (running.error) result.error = running.error->read_all();
    result.exited = running.control->expect<Exited>();
    return result;
  }
  Result finish(Running&& running) { return finish(running); }
  std::string output_of(const Start& start) {
    const Result result = finish(run(start));
    EXPECT_EQ(result.error, "");
    EXPECT_EQ(result.exited.signal, 0);
    return result.output;
  }
  Failed failure_of(const Start& start) {
    const auto control = open(Kind::control, new_process_id());
    control->say(start);
    return control->expect<Failed>();
  }
  void end_container() {
    if (!first_) return;
    const auto control = open(Kind::control, *first_);
    control->say(agent::Signal{SIGKILL});
    // Known or not: the first answer to Start is of after its end.
    control->say(agent::Follow{});
    for (agent::Message message = control->hear(); message.type == Started::kType;
         message = control->hear()) {
    }
    first_.reset();
  }

  std::vector<std::string> more_words_;  // for the agent, of which a fixture knows before
  fs::path folder_;
  std::string socket_;
  pid_t child_ = 0;
  std::optional<agent::ProcessId> first_;
};

TEST_F(Agent, RunsAProgram) {
  Start start = shell("echo $$ $A $HOME $PWD; hostname; echo wrong >&2; exit 7");
  start.environment.push_back("A=1");
  start.working_directory = "/srv/new";
  const Result result = finish(run(start));
  EXPECT_EQ(result.output, "1 1 /root /srv/new\nbox\n");
  EXPECT_EQ(result.error, "wrong\n");
  EXPECT_EQ(result.exited.code, 7);
  EXPECT_EQ(result.exited.signal, 0);
}

// The names of a stream of files.
std::string names_of(const std::string& stream) {
  agent::MessageReader reader;
  reader.append(stream);
  std::string names;
  for (auto message = reader.next(); message && *message; message = reader.next()) {
    if ((*message)->type == protocol::files::End::kType) return names + "end";
    const auto entry = agent::decode<protocol::files::Entry>(**message);
    if (entry) names += entry->name + " ";
  }
  return names;
}

TEST_F(Agent, FilesWithAndWithoutAContainer) {
  Start start;
  start.files.emplace();
  start.files->kind = agent::FileTask::Kind::pack;
  start.files->path = "/srv/files";
  start.files->name = "files";
  for (const bool is_running : {false, true}) {
    SCOPED_TRACE(is_running);
    std::optional<Running> running;
    if (is_running) running = run(shell("sleep 1000"));
    Start unpack = start;
    unpack.files->kind = agent::FileTask::Kind::unpack;
    unpack.files->path = "/tmp/..";
    unpack.input = true;
    Running writing = run(unpack);
    protocol::files::Entry entry;
    entry.name = "own/made";
    entry.mode = S_IFREG | 0640;
    entry.size = 3;
    writing.input->say(entry);
    writing.input->say(protocol::files::Piece{0, protocol::Bytes(3, std::byte{'x'})});
    writing.input->say(protocol::files::End{});
    writing.input->end_output();
    const Result written = finish(writing);
    EXPECT_EQ(written.error, "");
    EXPECT_EQ(written.exited.code, 0);
    Start list = start;
    list.files->path = "/own";
    list.files->name = "t";
    EXPECT_EQ(names_of(output_of(list)), "t t/made end");
    const Result missing = finish(run(start));
    EXPECT_EQ(missing.error, "cannot open '/srv/files': No such file or directory");
    EXPECT_EQ(missing.exited.code, 1);
  }
  EXPECT_EQ(output_of(beside("stat -c '%u %a %s' /own/made; cat /own/made")), "0 640 3\nxxx");
}

TEST_F(Agent, FilesThatTheAgentMountsAreSeen) {
  const Running running = run(shell("sleep 1000"));
  Start start;
  start.files.emplace();
  start.files->kind = agent::FileTask::Kind::pack;
  start.files->path = "/etc/hostname";
  start.files->name = "hostname";
  EXPECT_TRUE(output_of(start).contains("box\n")) << "the name of the container";
  start.files->path = "/";
  start.files->name.clear();
  EXPECT_FALSE(output_of(start).contains("box\n")) << "an export has the container's own";
}

TEST_F(Agent, FilesThatNobodyReads) {
  finish(run(shell("dd if=/dev/zero of=/tmp/large bs=1048576 count=8 2>/dev/null")));
  Start start;
  start.files.emplace();
  start.files->kind = agent::FileTask::Kind::pack;
  start.files->path = "/tmp/large";
  start.files->name = "large";
  start.lost_output = agent::LostOutput::is_dropped;
  Running running = run(start);
  running.output.reset();
  running.error->read_all();
  running.output.reset();
  EXPECT_EQ(running.control->expect<Exited>().code, 0) << "it ends all the same";
}

TEST_F(Agent, FilesEndWithWhoAskedForThem) {
  if (vsock_of_guest() != nullptr) GTEST_SKIP() << "the agent's children are not seen from here";
  finish(run(shell("dd if=/dev/zero of=/tmp/large bs=1048576 count=8 2>/dev/null")));
  const std::string children = fmt::format("/proc/{0}/task/{0}/children", child_);
  const auto has_children = [&children] {
    std::string pid;
    return static_cast<bool>(std::ifstream(children) >> pid);
  };
  Start start;
  start.files.emplace();
  start.files->kind = agent::FileTask::Kind::pack;
  start.files->path = "/tmp/large";
  start.files->name = "large";
  Running running = begin(start);
  EXPECT_TRUE(has_children()) << "it waits for a reader";
  running.control.reset();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(kPatience);
  while (has_children() && std::chrono::steady_clock::now() < deadline) ::sched_yield();
  EXPECT_FALSE(has_children());
}

// An agent with a control group, and little patience with who has a container frozen.
class Freezing : public Agent {
 protected:
  void SetUp() override {
    if (vsock_of_guest() != nullptr) GTEST_SKIP() << "the agent there has its own patience";
    if (const std::string why = obstacle(); !why.empty()) GTEST_SKIP() << why;
    make_group();
    if (group_.empty()) GTEST_SKIP() << "there is no cgroup v2 in which a group can be made";
    more_words_ = {"--cgroup", group_ / "container", "--patience", "1000"};
    Agent::SetUp();
  }
  void TearDown() override {
    Agent::TearDown();
    if (group_.empty()) return;
    ::rmdir((group_ / "container").c_str());
    EXPECT_EQ(::rmdir(group_.c_str()), 0) << "a process is left";
  }
  virtual void make_group() {
    for (const fs::path root : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
      if (!fs::exists(root / "cgroup.controllers")) continue;
      const auto group = root / fmt::format("vmm-agent-test.{}", ::getpid());
      if (::mkdir(group.c_str(), 0755) == 0) group_ = group;
      return;
    }
  }

  bool is_frozen() const {
    std::ifstream events(group_ / "container/cgroup.events");
    const std::string text{std::istreambuf_iterator<char>(events), {}};
    return text.contains("frozen 1\n");
  }
  void expect_thaw() const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(kPatience);
    while (is_frozen() && std::chrono::steady_clock::now() < deadline) ::sched_yield();
    EXPECT_FALSE(is_frozen());
  }
  // Work that is more than sockets and pipes hold.
  Start frozen_work() {
    finish(run(shell("dd if=/dev/zero of=/tmp/large bs=1048576 count=8 2>/dev/null")));
    Start start;
    start.files.emplace();
    start.files->kind = agent::FileTask::Kind::pack;
    start.files->path = "/tmp/large";
    start.files->name = "large";
    start.files->freeze = true;
    return start;
  }

  fs::path group_;
};

TEST_F(Freezing, EndsWhenNobodyTakesTheFiles) {
  const Start work = frozen_work();
  const Running container = run(shell("echo ready; sleep 1000"));
  container.output->read_until("ready\n");
  const Running stuck = begin(work);
  EXPECT_TRUE(is_frozen()) << "when it has started";
  EXPECT_EQ(stuck.control->expect<Failed>().text,
            "nobody took the files of the container for 1 s, while it stood still for them: it "
            "goes on");
  expect_thaw();
  EXPECT_EQ(output_of(beside("echo runs")), "runs\n");
}

TEST_F(Freezing, EndsWithWhoAskedForTheFiles) {
  const Start work = frozen_work();
  const Running container = run(shell("echo ready; sleep 1000"));
  container.output->read_until("ready\n");
  Running killed = run(work);
  EXPECT_TRUE(is_frozen());
  killed = Running();  // its connections, as of a process that is killed
  expect_thaw();
  EXPECT_EQ(output_of(beside("echo runs")), "runs\n");
}

// Nothing comes of it: its reader is not to blame.
TEST_F(Freezing, LastsWhileTheFilesAreSlowToRead) {
  const Start work = frozen_work();
  const Running container = run(shell("echo ready; sleep 1000"));
  container.output->read_until("ready\n");
  Running slow = run(work);
  ASSERT_EQ(::kill(slow.pid, SIGSTOP), 0);  // as one that waits for its disk
  while (!slow.output->is_silent(200)) slow.output->read_some();
  EXPECT_TRUE(slow.control->is_silent(2500));
  EXPECT_TRUE(is_frozen());
  ASSERT_EQ(::kill(slow.pid, SIGCONT), 0);
  EXPECT_EQ(finish(slow).exited.code, 0);
  expect_thaw();
}

TEST_F(Freezing, LastsAsLongAsSomebodyTakesTheFiles) {
  const Start work = frozen_work();
  const Running container = run(shell("echo ready; sleep 1000"));
  container.output->read_until("ready\n");
  Running slow = run(work);
  for (int i = 0; i < 8; ++i) {
    std::size_t size = 0;
    while (size < 512u << 10) size += slow.output->read_some().size();
    EXPECT_TRUE(slow.control->is_silent(300));
    EXPECT_TRUE(is_frozen());
  }
  const Result result = finish(slow);
  EXPECT_EQ(result.error, "");
  EXPECT_EQ(result.exited.code, 0);
}

// In place of cgroup v2, files: nothing freezes.
class NotFreezing : public Freezing {
 protected:
  void make_group() override {
    std::string name = "/tmp/vmm-agent-group.XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    group_ = name;
    std::ofstream(group_ / "cgroup.subtree_control");
    fs::create_directories(group_ / "container");
    std::ofstream(group_ / "container/cgroup.freeze");
    std::ofstream(group_ / "container/cgroup.events") << "populated 1\nfrozen 0\n";
  }
  void TearDown() override {
    Agent::TearDown();
    if (!group_.empty()) fs::remove_all(group_);
  }
};

TEST_F(NotFreezing, IsToldAndTakenBack) {
  Start start;
  start.files.emplace();
  start.files->kind = agent::FileTask::Kind::changes;
  start.files->freeze = true;
  const std::string text = "a process of the container did not stop within 1 s";
  const auto asked = [this] {
    std::string value;
    std::ifstream(group_ / "container/cgroup.freeze") >> value;
    return value;
  };
  EXPECT_EQ(failure_of(start).text, text);
  EXPECT_EQ(asked(), "0");
  const auto machine = open(Kind::machine, {});
  machine->say(agent::Freeze{true});
  EXPECT_EQ(machine->expect<Failed>().text, text);
  EXPECT_EQ(asked(), "0");
}

TEST_F(Agent, OneContainerAfterAnother) {
  EXPECT_EQ(output_of(shell("echo one")), "one\n");
  EXPECT_EQ(output_of(shell("echo two")), "two\n");
  Running running = run(shell("sleep 1000"));
  EXPECT_EQ(failure_of(shell("true")).text, "the container is running already");
}

TEST_F(Agent, SaysWhyAProgramDoesNotRun) {
  const auto fails = [&](std::vector<std::string> arguments) {
    Start start = shell("");
    start.arguments = std::move(arguments);
    return failure_of(start);
  };
  const Failed missing = fails({"no-such-program"});
  EXPECT_EQ(missing.reason, Failed::Reason::not_found);
  EXPECT_EQ(missing.error, static_cast<std::uint32_t>(ENOENT));
  EXPECT_EQ(missing.text, "cannot run 'no-such-program': executable file not found in $PATH");
  EXPECT_EQ(fails({"/no/such"}).reason, Failed::Reason::not_found);
  EXPECT_EQ(fails({"/etc/plain"}).reason, Failed::Reason::not_executable);
  EXPECT_EQ(fails({"/etc"}).reason, Failed::Reason::not_executable);
  EXPECT_EQ(fails({}).reason, Failed::Reason::setup);
  Start relative = shell("true");
  relative.working_directory = "here";
  EXPECT_EQ(failure_of(relative).text, "working directory 'here' is not absolute");
  Start nobody = shell("true");
  nobody.user = "nobody";
  EXPECT_EQ(failure_of(nobody).text, "unable to find user 'nobody': not in /etc/passwd");
}

TEST_F(Agent, Signals) {
  Running trapped =
      run(shell("trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 0.1; done"));
  trapped.output->read_until("ready\n");
  // PID 1 ignores what it has no handler for.
  trapped.control->say(agent::Signal{SIGTERM});
  trapped.control->say(agent::Signal{SIGUSR1});
  const Result result = finish(trapped);
  EXPECT_EQ(result.output, "got it\n");
  EXPECT_EQ(result.exited.code, 3);

  Running killed = run(shell("sleep 1000"));
  killed.control->say(agent::Signal{SIGKILL});
  EXPECT_EQ(finish(killed).exited.signal, SIGKILL);
}

TEST_F(Agent, TheInputIsHalfClosed) {
  Start start = shell("cat; echo end");
  start.input = true;
  Running running = run(start);
  running.input->send("some\n");
  EXPECT_EQ(running.output->read_until("\n"), "some\n");
  running.input->send("more");
  running.input->end_output();
  EXPECT_EQ(finish(running).output, "moreend\n");
  EXPECT_EQ(output_of(shell("cat; echo end")), "end\n") << "without input";
}

TEST_F(Agent, InputThatOutlivesItsConnection) {
  Start start = shell("head -n 2");
  start.input = start.keep_input = true;
  Running running = run(start);
  running.input->send("one\n");
  running.input.reset();
  running.input = open(Kind::standard_input, running.id);
  running.input->send("two\n");
  EXPECT_EQ(finish(running).output, "one\ntwo\n");
}

TEST_F(Agent, AllOutputIsReadBeforeTheEndIsTold) {
  constexpr std::size_t kSize = 10u << 20;
  Running running = run(shell(fmt::format("head -c {} /dev/zero; exit 5", kSize)));
  EXPECT_TRUE(running.control->is_silent(200)) << "told while most of the output is unread";
  const Result result = finish(running);
  EXPECT_EQ(result.output.size(), kSize);
  EXPECT_EQ(result.exited.code, 5);
}

TEST_F(Agent, OutputWaitsForAConnection) {
  Running running = begin(shell("echo early; exit 4"));
  EXPECT_TRUE(running.control->is_silent(100));
  running.output = open(Kind::standard_output, running.id);
  EXPECT_EQ(running.output->read_all(), "early\n");
  EXPECT_EQ(running.control->expect<Exited>().code, 4) << "nothing was written to standard error";
}

TEST_F(Agent, AClientThatGoesAway) {
  constexpr std::size_t kSize = 4u << 20;
  const Start waiting = shell(fmt::format("head -c {} /dev/zero; echo end; exit 2", kSize));
  Running running = run(waiting);
  running.output->read_some();
  running.output.reset();
  running.control.reset();
  // Nothing is lost but what was on its way; who comes later hears how it ends.
  running.control = open(Kind::control, running.id);
  running.control->say(agent::Follow{});
  running.control->expect<Started>();
  running.output = open(Kind::standard_output, running.id);
  EXPECT_TRUE(running.output->read_all().ends_with(std::string_view("\0end\n", 5)));
  EXPECT_EQ(running.control->expect<Exited>().code, 2);

  Start dropping = waiting;
  dropping.lost_output = agent::LostOutput::is_dropped;
  Running dropped = run(dropping);
  dropped.output->read_some();
  dropped.output.reset();
  EXPECT_EQ(dropped.control->expect<Exited>().code, 2);
}

TEST_F(Agent, ATerminal) {
  Start start = shell(
      "tty; stty size; echo $(stat -c %u /dev/pts/0); trap 'stty size; exit 9' WINCH; echo ready; "
      "while :; do sleep 0.1; done");
  start.terminal = agent::TerminalSize{100, 30};
  Running running = run(start);
  EXPECT_EQ(running.terminal->read_until("ready\r\n"), "/dev/pts/0\r\n30 100\r\n0\r\nready\r\n");
  running.control->say(agent::Resize{{132, 43}});
  const Result result = finish(running);
  EXPECT_EQ(result.output, "43 132\r\n");
  EXPECT_EQ(result.exited.code, 9);

  Start echo = shell(
      "read line; echo \"<$line>\"; echo to the console >/dev/console; head -c 300000 /dev/zero | "
      "wc -c");
  echo.terminal.emplace();
  Running typed = run(echo);
  typed.terminal->send("abc\r");
  EXPECT_EQ(finish(typed).output, "abc\r\n<abc>\r\nto the console\r\n300000\r\n");

  Start interrupted = shell("echo ready; sleep 1000");
  interrupted.terminal.emplace();
  interrupted.container->init = true;  // not PID 1, so that the signal counts
  Running control_c = run(interrupted);
  control_c.terminal->read_until("ready\r\n");
  control_c.terminal->send("\x03");
  EXPECT_EQ(finish(control_c).exited.code, 128 + SIGINT);
}

TEST_F(Agent, AnotherProcessBesideTheFirst) {
  EXPECT_EQ(failure_of(beside("true")).text, "the container is not running");
  Running first = run(shell("echo $$ >/tmp/first; echo ready; sleep 1000"));
  first.output->read_until("ready\n");
  const Result result =
      finish(run(beside("cat /tmp/first; hostname; grep -c sleep /proc/1/cmdline; "
                        "echo $PPID; exit 6")));
  EXPECT_EQ(result.output, "1\nbox\n1\n0\n") << result.error;
  EXPECT_EQ(result.exited.code, 6);
  Start missing = beside("");
  missing.arguments = {"nothing"};
  EXPECT_EQ(failure_of(missing).reason, Failed::Reason::not_found);

  Start terminal = beside("tty");
  terminal.terminal.emplace();
  EXPECT_EQ(finish(run(terminal)).output, "/dev/pts/0\r\n");

  // What it leaves in the background does not hold its end up.
  const Result background = finish(run(beside("sleep 1000 & echo left")));
  EXPECT_EQ(background.output, "left\n");

  // The end of the first is the end of all.
  Running other = run(beside("echo ready; sleep 1000"));
  other.output->read_until("ready\n");
  first.control->say(agent::Signal{SIGKILL});
  EXPECT_EQ(finish(other).exited.signal, SIGKILL);
  EXPECT_EQ(finish(first).exited.signal, SIGKILL);
}

TEST_F(Agent, EndsWithAllThatRuns) {
  if (vsock_of_guest() != nullptr) GTEST_SKIP() << "the agent of a machine does not end";
  std::vector<Running> running;
  running.push_back(run(shell("echo ready; sleep 1000")));
  for (int i = 0; i < 8; ++i) running.push_back(run(beside("echo ready; sleep 1000")));
  for (Running& one : running) one.output->read_until("ready\n");
  first_.reset();
  ::kill(child_, SIGTERM);
  for (Running& one : running) EXPECT_EQ(one.control->hear().type, 0) << "closed";
}

TEST_F(Agent, AnInitReapsOrphans) {
  // A zombie keeps its name until it is reaped.
  Start start = shell(
      "(sleep 0.05 &) ; while grep -qs sleep /proc/[0-9]*/comm; do :; done; echo $$; kill -9 $$");
  start.container->init = true;
  const Result result = finish(run(start));
  EXPECT_EQ(result.output, "2\n");
  EXPECT_EQ(result.exited.code, 128 + SIGKILL);

  Start trapped = shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done");
  trapped.container->init = true;
  Running running = run(trapped);
  running.output->read_until("ready\n");
  running.control->say(agent::Signal{SIGTERM});
  EXPECT_EQ(finish(running).exited.code, 3);
}

TEST_F(Agent, Users) {
  Start start = shell("id -u; id -g; id -G; echo $HOME; echo again >/dev/stdout");
  start.user = "web";
  start.groups = {"root"};
  EXPECT_EQ(output_of(start), "33\n34\n34 0 44\n/srv/web\nagain\n");
  start.user = "4711:media";
  start.groups = {};
  EXPECT_EQ(output_of(start), "4711\n44\n44\n/\nagain\n");
}

TEST_F(Agent, Privileges) {
  const std::string caps =
      "grep -E 'CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs' /proc/self/status";
  EXPECT_EQ(output_of(shell(caps)),
            "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n"
            "CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\n");
  Start user = shell(caps);
  user.user = "web";
  user.no_new_privileges = true;
  user.capabilities = 1 << 10;
  EXPECT_EQ(output_of(user),
            "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n"
            "CapBnd:\t0000000000000400\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n");
}

TEST_F(Agent, LimitsAndUmask) {
  Start start = shell("ulimit -n; ulimit -Hn; umask; cat /proc/self/oom_score_adj");
  start.limits = {{RLIMIT_NOFILE, 100, 200}};
  start.umask = 027;
  start.oom_score = 1000 + 300;
  EXPECT_EQ(output_of(start), "100\n200\n0027\n300\n");
}

TEST_F(Agent, WhatAContainerSees) {
  Start start = shell(
      "for f in null zero full random urandom tty; do [ -c /dev/$f ] || echo $f; done; "
      "for f in fd stdin stdout stderr ptmx pts shm mqueue; do [ -e /dev/$f ] || echo $f; done; "
      "cat /etc/hostname; set -- /proc/[0-9]*; echo $#; "
      "touch /sys/x /proc/sys/x 2>/dev/null || echo read-only; echo 1 >/proc/sys/kernel/panic; "
      "cat /proc/kcore /proc/keys; ls /sys/firmware; stat -f -c %s /dev/shm >/dev/null; "
      "cat /proc/sys/kernel/msgmax; ls /proc/self/fd | wc -l; touch /tmp/x /x");
  start.container->sysctls = {{"kernel.msgmax", "4242"}};
  start.container->mounts = {{agent::Mount::Type::tmpfs, "", "/tmp", "size=64k", false}};
  start.container->read_only_root = true;
  const Result result = finish(run(start));
  EXPECT_EQ(result.output, "box\n1\nread-only\n4242\n4\n");
  EXPECT_TRUE(result.error.contains("/proc/sys/kernel/panic: Read-only file system"))
      << result.error;
  EXPECT_TRUE(result.error.contains("touch: /x: Read-only file system")) << result.error;
  EXPECT_FALSE(result.error.contains("/tmp/x")) << result.error;
  Start privileged = shell("touch /sys/x 2>&1 | grep -c Read-only");
  privileged.container->mask_paths = false;
  EXPECT_EQ(output_of(privileged), "0\n");
}

TEST_F(Agent, DevicesAreForEveryUser) {
  ::umask(022);
  Start start = shell(
      "for f in null zero full random urandom tty; do [ -r /dev/$f -a -w /dev/$f ] || echo $f; "
      "done; echo x >/dev/null; touch /dev/shm/x; rm /dev/shm/x; echo end");
  start.user = "65534";
  EXPECT_EQ(output_of(start), "end\n");
}

TEST_F(Agent, BoundDirectoriesAndFiles) {
  Start start = shell("cat /data/file /etc/one; touch /data/new || echo read-only; ls /data");
  const std::string shared = vsock_of_guest() != nullptr ? "/run" : folder_.string();
  start.container->mounts = {{agent::Mount::Type::bind, shared + "/none", "/data", "", false}};
  EXPECT_TRUE(failure_of(start).text.contains("cannot mount '")) << "no such source";
  if (vsock_of_guest() != nullptr) return;
  fs::create_directories(folder_ / "shared");
  std::ofstream(folder_ / "shared/file") << "of the host\n";
  start.container->mounts = {
      {agent::Mount::Type::bind, folder_ / "shared", "/data", "", true},
      {agent::Mount::Type::bind, folder_ / "shared/file", "/etc/one", "", false}};
  EXPECT_EQ(finish(run(start)).output, "of the host\nof the host\nread-only\nfile\n");
}

// A root that leads out of itself by links harms nobody.
TEST_F(Agent, AHostileRoot) {
  if (vsock_of_guest() != nullptr) GTEST_SKIP() << "the guest's root is a disk";
  fs::remove(folder_ / "root/proc");
  fs::create_directory_symlink("/tmp", folder_ / "root/proc");
  EXPECT_EQ(failure_of(shell("true")).text, "'/proc' of the image is not a directory");
  fs::remove(folder_ / "root/proc");
  fs::remove(folder_ / "root/etc/passwd");
  ASSERT_EQ(::mkfifo((folder_ / "root/etc/passwd").c_str(), 0600), 0);
  EXPECT_EQ(output_of(shell("echo $$")), "1\n") << "the look-up waits for no pipe";
}

TEST_F(Agent, GarbageFromTheHost) {
  auto garbage = connect();
  garbage->send("GET / HTTP/1.1\r\nHost: agent\r\n\r\n");
  garbage->read_all();
  for (int i = 0; i < 100; ++i) connect();
  EXPECT_EQ(connect()->greet(Kind::standard_output, new_process_id()), Kind::refused);
  const auto control = open(Kind::control, new_process_id());
  control->say(agent::Follow{});
  EXPECT_EQ(control->expect<Failed>().text, "no such process");
  control->send(agent::encode_message(99, "???"));
  EXPECT_EQ(control->expect<Failed>().text, "unknown message 99");
  control->send("\xff\xff\xff\xff");
  EXPECT_EQ(control->hear().type, 0) << "closed";
  std::vector<std::unique_ptr<Connection>> half;
  for (int i = 0; i < 80; ++i) {
    half.push_back(connect());
    half.back()->send("VMM");
  }
  EXPECT_EQ(half.front()->read_all(), "") << "the oldest goes: only so many are held";
  EXPECT_EQ(output_of(shell("echo alive")), "alive\n");
}

TEST_F(Agent, ABurstOfConnectionsIsHeardWhole) {
  if (child_ <= 0) GTEST_SKIP() << "the agent of a guest is not stopped from here";
  ASSERT_EQ(::kill(child_, SIGSTOP), 0);
  std::vector<std::unique_ptr<Connection>> burst;
  const auto header = agent::encode(agent::Header{Kind::machine, {}});
  for (int i = 0; i < 65; ++i) {  // what the backlog of its socket has
    burst.push_back(connect());
    burst.back()->send({reinterpret_cast<const char*>(header.data()), header.size()});
  }
  ASSERT_EQ(::kill(child_, SIGCONT), 0);
  for (const auto& one : burst) EXPECT_FALSE(one->read_some().empty());
}

TEST_F(Agent, TheMachineAnswers) {
  const auto machine = open(Kind::machine, {});
  // More requests than answers fit into a socket: they wait for their turn.
  constexpr int kMany = 20'000;
  std::thread asks([&] {
    for (int i = 0; i < kMany; ++i) machine->say(agent::Hello{});
  });
  for (int i = 0; i < kMany; ++i) machine->expect<agent::Welcome>();
  asks.join();
  machine->say(agent::Hello{});
  const auto welcome = machine->expect<agent::Welcome>();
  EXPECT_EQ(welcome.version, agent::kVersion);
  EXPECT_FALSE(welcome.kernel.empty());
  EXPECT_GT(welcome.uptime, 0u);
  agent::Configure configure;
  configure.hosts = "10.0.0.1 host\n";
  machine->say(configure);
  machine->expect<agent::Done>();
  EXPECT_EQ(output_of(shell("cat /etc/hosts")), "10.0.0.1 host\n");
  configure.interfaces = {{"no-such-interface", "", 0, {}, {}}};
  machine->say(configure);
  EXPECT_EQ(machine->expect<Failed>().text, "no interface 'no-such-interface': No such device");
}

TEST_F(Agent, TellsOfWhatCannotBeWritten) {
  if (vsock_of_guest() != nullptr) GTEST_SKIP() << "the guest's root is a disk";
  const auto machine = open(Kind::machine, {});
  fs::rename(folder_ / "root", folder_ / "away");
  std::ofstream(folder_ / "root") << "in the way";
  machine->say(agent::Sync{});
  EXPECT_EQ(machine->expect<Failed>().text,
            fmt::format("cannot sync '{}': Not a directory", (folder_ / "root").string()));
  fs::remove(folder_ / "root");
  fs::rename(folder_ / "away", folder_ / "root");
}

// ---- what takes a machine

class Machine : public Agent {
 protected:
  void SetUp() override {
    if (vsock_of_guest() == nullptr) GTEST_SKIP() << "runs in a guest (tests/vm/agent.py)";
    Agent::SetUp();
    machine_ = open(Kind::machine, {});
  }
  template <typename T>
  void does(const T& request) {
    machine_->say(request);
    machine_->expect<agent::Done>();
  }
  agent::Usage usage(bool processes = false) {
    machine_->say(agent::AskUsage{processes});
    return machine_->expect<agent::Usage>();
  }

  std::unique_ptr<Connection> machine_;
};

TEST_F(Machine, TellsOfTooLittleMemory) {
  Start start = shell("");
  start.arguments = {"tail", "/dev/zero"};  // keeps a line that never ends
  start.container->memory_limit = 16u << 20;
  const Result result = finish(run(start));
  EXPECT_EQ(result.exited.signal, SIGKILL);
  EXPECT_TRUE(result.exited.out_of_memory);
  const Result next = finish(run(shell("cat /sys/fs/cgroup/memory.max; exit 1")));
  EXPECT_EQ(next.output, "max\n");
  EXPECT_FALSE(next.exited.out_of_memory);
}

TEST_F(Machine, LimitsProcesses) {
  Start start = shell("cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max");
  start.container->process_limit = 50;
  start.container->cpu_limit = 1500;
  EXPECT_EQ(output_of(start), "50\n150000 100000\n");
}

TEST_F(Machine, Usage) {
  Running running = run(shell("echo ready; while :; do :; done"));
  running.output->read_until("ready\n");
  const agent::Usage used = usage(true);
  EXPECT_EQ(used.processes, 1u);
  EXPECT_GT(used.memory, 0u);
  EXPECT_GT(used.memory_limit, used.memory);
  ASSERT_EQ(used.list.size(), 1u);
  EXPECT_EQ(used.list[0].command, "sh -c echo ready; while :; do :; done");
  EXPECT_GT(used.list[0].pid, 1u);

  does(agent::Freeze{true});
  // It takes effect soon.
  std::uint64_t frozen = usage().cpu_time;
  for (std::uint64_t now = usage().cpu_time; now != frozen; now = usage().cpu_time) frozen = now;
  EXPECT_EQ(usage().cpu_time, frozen);
  // What freezes by itself leaves it as it was.
  Start changes;
  changes.files.emplace();
  changes.files->kind = agent::FileTask::Kind::changes;
  changes.files->freeze = true;
  EXPECT_EQ(finish(run(changes)).error, "");
  EXPECT_EQ(usage().cpu_time, frozen);
  does(agent::Freeze{false});
  while (usage().cpu_time == frozen) {
  }
  EXPECT_GT(usage().cpu_time, frozen);
}

TEST_F(Machine, Identity) {
  agent::Configure configure;
  configure.host_name = "machine";
  configure.clock = std::uint64_t{2'000'000'000} * 1'000'000'000;  // 2033-05-18
  configure.seed.assign(32, std::byte{7});
  configure.resolv_conf = "nameserver 10.0.0.1\n";
  configure.interfaces = {{"eth0",
                           "52:54:00:00:00:09",
                           1400,
                           {"10.1.2.3/24", "fd00::3/64"},
                           {{"", "10.1.2.1"}, {"10.9.0.0/16", "10.1.2.9"}}}};
  does(configure);
  does(configure);  // a copy of a machine gets another identity than it had
  EXPECT_EQ(
      output_of(shell("date -u +%Y-%m-%d; cat /etc/resolv.conf; cat /sys/class/net/eth0/address "
                      "/sys/class/net/eth0/mtu; ip -4 -o address show eth0 | grep -o 'inet [^ ]*'; "
                      "ip route | grep -v link")),
      "2033-05-18\nnameserver 10.0.0.1\n52:54:00:00:00:09\n1400\ninet 10.1.2.3/24\n"
      "default via 10.1.2.1 dev eth0 \n10.9.0.0/16 via 10.1.2.9 dev eth0 \n");
  does(agent::Sync{});
  // A container that goes on as a copy of another one.
  const Running container = run(shell("echo ready; sleep 1000"));
  container.output->read_until("ready\n");
  configure = {};
  configure.host_name = "copy";
  does(configure);
  EXPECT_EQ(output_of(beside("hostname; cat /etc/hostname")), "copy\ncopy\n");
}

// The last one: nothing answers after it.
TEST_F(Machine, Ends) {
  finish(run(shell("touch /kept")));
  first_.reset();
  machine_->say(agent::PowerOff{});
  EXPECT_EQ(machine_->hear().type, 0);
}

}  // namespace
}  // namespace vmm::agent::test
