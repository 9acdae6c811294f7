// commit: an image of what a container is made of, with one layer more.
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "src/engine/cli/commands.h"
#include "src/engine/cli/image_change.h"
#include "src/engine/image/install.h"
#include "src/engine/image/manifest.h"
#include "src/engine/runtime/container_machine.h"
#include "src/engine/runtime/file_task.h"
#include "src/engine/runtime/tar_files.h"

namespace vmm::engine::cli {
namespace {

namespace agent = protocol::agent;
using nlohmann::json;

struct Layer {
  Digest digest;
  std::uint64_t size = 0;
};

// What the archive and the layer made of it may take: half of what is free.
Result<std::uint64_t> room_at(int fd) {
  struct statvfs status{};
  if (::fstatvfs(fd, &status) < 0) return fail_errno("cannot examine the store's file system");
  return std::uint64_t{status.f_bavail} * status.f_frsize / 2;
}

// The archive as a blob of the store, which is its own diff id.
Result<Layer> make_layer(const ContentStore& content, const ContainerMachine& machine,
                         bool freeze) {
  auto file = TRY(content.temporary());
  agent::FileTask task;
  task.kind = agent::FileTask::Kind::layer;
  task.freeze = freeze;
  TarOfFiles tar(file.fd(), "", TRY(room_at(file.fd())));
  TRY(tar.open());
  TRY(read_files(machine.directory(), task,
                 [&tar](const agent::Message& message) { return tar.take(message); }));
  TRY(tar.finish());
  const auto written = TRY(file.reopen());
  struct stat status{};
  if (::fstat(written.get(), &status) < 0) return fail_errno("cannot examine the layer");
  FileSource source(written.get());
  HashingSource hashed(source, UINT64_MAX);
  const Layer layer{TRY(hashed.finish()), static_cast<std::uint64_t>(status.st_size)};
  TRY(content.publish(std::move(file), Content::blob, layer.digest));
  return layer;
}

json set_of(const std::vector<std::string>& names) {
  auto object = json::object();
  for (const auto& name : names) object[name] = json::object();
  return object;
}

// The image's own configuration, with what the container was given.
void take_spec(json& config, const ContainerSpec& spec) {
  config["Env"] = spec.environment;
  const auto set_list = [&config](const char* name, const std::vector<std::string>& list) {
    if (list.empty()) {
      config.erase(name);
    } else {
      config[name] = list;
    }
  };
  set_list("Cmd", spec.command);
  set_list("Entrypoint", spec.entrypoint);
  config["User"] = spec.user;
  config["WorkingDir"] = spec.working_directory;
  if (!spec.stop_signal.empty()) config["StopSignal"] = spec.stop_signal;
  if (!spec.exposed.empty()) config["ExposedPorts"] = set_of(spec.exposed);
  auto labels = json::object();
  for (const auto& label : spec.labels) {
    const auto equals = std::min(label.find('='), label.size());
    labels[label.substr(0, equals)] = label.substr(std::min(equals + 1, label.size()));
  }
  if (!labels.empty()) config["Labels"] = std::move(labels);
}

Result<std::string> new_config(const json& base, const Container& container, const Digest& diff_id,
                               const Words& words) {
  auto root = base;
  if (!root.contains("config") || !root["config"].is_object()) root["config"] = json::object();
  take_spec(root["config"], container.spec);
  for (const auto& change : words.list("change")) TRY(apply_change(root["config"], change));
  const auto time = format_time(now());
  root["created"] = time;
  if (words.has("author")) root["author"] = words.text("author");
  json step = {{"created", time},
               {"created_by", fmt::format("{}", fmt::join(container.spec.command, " "))}};
  if (words.has("author")) step["author"] = words.text("author");
  if (words.has("message")) step["comment"] = words.text("message");
  if (!root.contains("history") || !root["history"].is_array()) root["history"] = json::array();
  root["history"].push_back(std::move(step));
  root["rootfs"]["diff_ids"].push_back(diff_id.text());
  for (const char* gone : {"container", "container_config"}) root.erase(gone);
  return root.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

Result<int> commit(const Words& words) {
  std::vector<Reference> names;
  if (words.names().size() > 1) {
    names.push_back(TRY(parse_reference(words.names()[1])).with_default_tag());
    if (names[0].digest) return fail("refusing to create a tag with a digest reference");
  }
  json probe = json::object();  // what is wrong with the words needs no machine
  for (const auto& change : words.list("change")) TRY(apply_change(probe, change));
  const auto root = TRY(default_root());
  const auto machine = TRY(ContainerMachine::open(root, words.names()[0]));
  const auto& container = machine->container();
  auto store = TRY(Store::open(root));
  const auto& content = store.content();
  const auto image = TRY(Catalog(store).by_id(container.image));
  if (!image) return fail("No such image: {}", container.image.text());
  const bool freeze = container.state == ContainerState::running && !words.is_off("pause");
  const auto layer = TRY(make_layer(content, *machine, freeze));
  TRY(machine->finish());
  const auto base = TRY(parse_image_config(TRY(content.read_blob(image->id, kMaxDocument))));
  auto manifest = TRY(parse_manifest(TRY(content.read_blob(image->manifest, kMaxDocument))));
  const auto config = TRY(new_config(base.json, container, layer.digest, words));
  manifest.config = {"application/vnd.oci.image.config.v1+json",
                     TRY(content.add_blob(config)),
                     config.size(),
                     {},
                     {}};
  for (auto& one : manifest.layers) {  // an image is of one kind of types
    one.media_type = TRY(layer_media_type(content, one.digest));
  }
  manifest.layers.push_back(
      {TRY(layer_media_type(content, layer.digest)), layer.digest, layer.size, {}, {}});
  const auto made =
      TRY(install_image(store, TRY(content.add_blob(write_manifest(manifest))), names));
  print(made.id.text() + "\n");
  return 0;
}

}  // namespace vmm::engine::cli
