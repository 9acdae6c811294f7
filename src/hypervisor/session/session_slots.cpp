// Slots: what the components of a running machine are connected to. What is named is opened beside
// the machine, then put in its place in order with all that changes the machine, and noted last.
#include <algorithm>
#include <set>

#include "src/base/log.h"
#include "src/base/text.h"
#include "src/hypervisor/machine/device_kinds.h"
#include "src/hypervisor/session/session.h"

namespace vmm {
namespace {

using What = SlotRequest::What;

Result<SlotRequest> request_in(const protocol::WithAttachment& command, What what) {
  return SlotRequest{.what = what,
                     .component = command.component,
                     .attachment = TRY(attachment_in(command.attachment.text))};
}

Result<SlotRequest> resize_in(const protocol::Resize& command) {
  return SlotRequest{.what = What::resize,
                     .component = command.component,
                     .attachment = {},
                     .size = TRY(parse_size(command.size))};
}

SlotRequest request_in(const protocol::WithPorts& command, What what) {
  return SlotRequest{
      .what = what, .component = command.component, .attachment = {}, .ports = command.ports};
}

}  // namespace

struct Session::SlotWork {
  SlotRequest request;
  MachineConfig before, config;  // as it is then
  std::unique_ptr<virtio::SlotChange> change;
  bool is_made = false;  // though the device may not be able to go on
};

bool Session::serve_slots(const protocol::Command& command, const ControlServer::Answer& answer) {
  if (const auto* attach = std::get_if<protocol::Attach>(&command)) {
    change_slot(request_in(*attach, What::attach), answer);
  } else if (const auto* replace = std::get_if<protocol::Replace>(&command)) {
    change_slot(request_in(*replace, What::replace), answer);
  } else if (const auto* detach = std::get_if<protocol::Detach>(&command)) {
    change_slot(SlotRequest{.what = What::detach, .component = detach->component, .attachment = {}},
                answer);
  } else if (const auto* resize = std::get_if<protocol::Resize>(&command)) {
    change_slot(resize_in(*resize), answer);
  } else if (const auto* publish = std::get_if<protocol::Publish>(&command)) {
    change_slot(request_in(*publish, What::publish), answer);
  } else if (const auto* unpublish = std::get_if<protocol::Unpublish>(&command)) {
    change_slot(request_in(*unpublish, What::unpublish), answer);
  } else {
    return false;
  }
  return true;
}

Result<std::shared_ptr<Session::SlotWork>> Session::begin_change(SlotRequest request) {
  if (!is_there()) return fail("the machine starts again: ask later");
  // It copies disks as they are.
  if (!jobs_->empty()) return fail("a snapshot is being taken: ask when it is made");
  if (changing_.contains(request.component)) {
    return fail("{} is being changed: ask later", request.component);
  }
  auto work =
      std::make_shared<SlotWork>(SlotWork{std::move(request), config_, config_, nullptr, false});
  TRY(apply(work->request, work->config));
  auto named = named_;
  TRY(apply(work->request, named));
  if (start_.texts_of) TRY(start_.texts_of(named));
  return work;
}

void Session::change_slot(Result<SlotRequest> request, const ControlServer::Answer& answer) {
  if (!request) return answer(std::unexpected(request.error()));
  const auto begun = begin_change(std::move(*request));
  if (!begun) return answer(std::unexpected(begun.error()));
  const auto& work = *begun;
  changing_.insert(work->request.component);
  tasks_->beside(
      "attach",
      [this, work]() -> Result<void> {
        work->change = TRY(prepare(work->request, work->before, work->config, machine_->devices()));
        return {};
      },
      [this, work, answer](const Result<void>& prepared) {
        if (prepared) return make_change(work, answer);
        changing_.erase(work->request.component);
        answer(std::unexpected(prepared.error()));
        go_on();
      });
}

// The machine waits for that: neither a reset nor its end comes between.
void Session::make_change(const std::shared_ptr<SlotWork>& work,
                          const ControlServer::Answer& answer) {
  watch_for_hangs();
  tasks_->in_order(
      [this, work] {
        const auto made = machine_->devices().change(work->request.component, *work->change);
        work->is_made = work->change->is_made();
        work->change.reset();  // closes what was there, which may take time
        return made;
      },
      [this, work, answer](const Result<void>& made) {
        changing_.erase(work->request.component);
        if (work->is_made) note_change(*work);
        answer(made ? Result<std::string>(std::string()) : std::unexpected(made.error()));
        go_on();
      });
}

// A guest that resets finds it as it is now, and snapshots say so. What was asked could be done
// when it began, and only this has changed the component since.
void Session::note_change(const SlotWork& work) {
  const auto before = config_;
  (void)apply(work.request, config_);
  (void)apply(work.request, named_);
  drop_unused_disk_files();
  note_device_sockets(before);
  if (!start_.texts_of) return;
  if (auto texts = start_.texts_of(named_)) {
    saver_->set_texts(std::move(*texts));
  } else {
    log::warn("{}: {}", work.request.component, texts.error().message());
  }
}

// The space of a scratch layer or an unpacked disk is free when it is in no slot any more. A large
// one takes its time to go.
void Session::drop_unused_disk_files() {
  const auto unused = std::make_shared<std::vector<UniqueFd>>();
  std::set<std::string> used;
  for (const auto& kind : device_kinds()) {
    if (kind.paths == nullptr) continue;
    for (const auto* path : kind.paths(config_)) used.insert(*path);
  }
  std::erase_if(disk_files_, [&](UniqueFd& file) {
    if (used.contains(descriptor_path(file))) return false;
    unused->push_back(std::move(file));
    return true;
  });
  if (unused->empty()) return;
  tasks_->in_order(
      [unused]() -> Result<void> {
        unused->clear();
        return {};
      },
      [](const Result<void>&) {});
}

}  // namespace vmm
