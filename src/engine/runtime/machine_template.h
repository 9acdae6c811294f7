// Templates of containers' machines: each is a snapshot of a machine whose agent listens and whose
// slots are empty. A container's machine goes on from it instead of booting. One serves the
// containers of all images whose machines have the same kernel, memory, CPUs and network cards, on
// hosts whose processors are alike.
//
//   ROOT/machine/templates/NAME/       the snapshot; its time is that of its last use
//                          NAME.lock   held by who makes it; what it says: why that failed
//                          NAME.work/  the sockets of the machine that becomes it
//                          NAME.failed why machines did not go on from the last two, a line each
//
// The first start that finds none boots, and has it made beside (make_beside). What a killed maker
// leaves is replaced by the next. A template is a cache: whatever is wrong with it, or removes it,
// the machine boots. One that a machine does not go on from is replaced; when the next one does not
// work either, none is tried or made for a day.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/engine/runtime/machine_files.h"
#include "src/engine/runtime/spec.h"

namespace vmm::engine {

// What there is to tell a person whose machines boot at each start.
std::string given_up_warning(std::string_view why);

// What one is made of. Its name says so: other files of the same path are another template.
struct TemplateRecipe {
  std::string name;
  std::string monitor;             // the program
  std::vector<std::string> words;  // and those of the machine
};
// What the restore of a snapshot asks of a host's processor, its maker and features: lines of
// /proc/cpuinfo.
std::string processor_in(std::string_view cpuinfo);
std::string host_processor();
Result<TemplateRecipe> template_recipe(const ContainerSpec& spec, const MachineFiles& files,
                                       const std::string& monitor,
                                       const std::string& processor = host_processor());

class MachineTemplates {
 public:
  explicit MachineTemplates(const std::string& root) : folder_(root + "/machine/templates") {}

  struct Found {
    std::string path;
    std::string identity;  // another one of the same name has another
  };
  // One that is there, unless its like are given up. It counts as used.
  std::optional<Found> find(const std::string& name) const;
  // A machine went on from the one of that name, or did not and booted: which is removed then.
  // True: it was the second in a row, and they are given up.
  void note_success(const std::string& name) const;
  bool note_failure(const std::string& name, const Found& which, std::string why) const;
  // What there is to tell of those that are given up, a sentence each.
  std::vector<std::string> warnings() const;
  // In the background, unless another process is at it, or it failed a while ago.
  void make_beside(const TemplateRecipe& recipe) const;
  // Here. Nothing, where it is there or another process makes it.
  Result<void> make(const TemplateRecipe& recipe) const;

  struct Usage {
    std::size_t count = 0;
    std::uint64_t bytes = 0;  // on the disk
  };
  Usage usage() const;
  // All but the `keep` that were used last, and what killed makers left. Returns bytes.
  std::uint64_t prune(std::size_t keep) const;

 private:
  bool is_there(const std::string& name) const;
  // Why, if that is noted and not too old; else "".
  std::string why_given_up(const std::string& name) const;
  // Those that run from it go on.
  void remove(const std::string& name) const;
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  std::vector<std::string> names() const;  // the last used one first

  std::string folder_;
};

}  // namespace vmm::engine
