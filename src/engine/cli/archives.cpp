// load, save and import: images from archives and to them.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "src/engine/cli/commands.h"
#include "src/engine/cli/output_file.h"
#include "src/engine/image/install.h"
#include "src/engine/image/load.h"
#include "src/engine/image/manifest.h"
#include "src/engine/image/save.h"

namespace vmm::engine::cli {
namespace {

// A file, or standard input.
Result<UniqueFd> open_input(const std::string& path) {
  if (path.empty() || path == "-") {
    if (::isatty(STDIN_FILENO) != 0) return fail("requested load from stdin, but stdin is empty");
    const int fd = ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    if (fd < 0) return fail_errno("cannot read standard input");
    return UniqueFd(fd);
  }
  return open_file(path, O_RDONLY);
}

// What is read of an archive is written to a blob, too.
class KeptSource final : public ByteSource {
 public:
  KeptSource(int fd, BlobWriter& blob) : file_(fd), blob_(blob) {}
  Result<std::size_t> read(std::span<std::byte> buffer) override {
    const auto n = TRY(file_.read(buffer));
    TRY(blob_.write(buffer.first(n)));
    return n;
  }

 private:
  FileSource file_;
  BlobWriter& blob_;
};

// An image that is asked for by a name keeps it; by a repository alone, all its tags.
Result<void> add_saved(Catalog& catalog, const std::string& name, std::vector<SavedImage>& saved) {
  const auto put = [&saved](const Image& image, const std::string& tag) {
    auto found = std::ranges::find_if(
        saved, [&image](const SavedImage& other) { return other.image.id == image.id; });
    if (found == saved.end()) {
      saved.push_back({image, {}});
      found = std::prev(saved.end());
    }
    if (!tag.empty() && std::ranges::find(found->names, tag) == found->names.end()) {
      found->names.push_back(tag);
    }
  };
  const auto reference = parse_reference(name);
  if (reference && reference->tag.empty() && !reference->digest) {
    const auto tags = TRY(catalog.tags_of(reference->repository()));
    for (const auto& tag : tags) put(TRY(catalog.find(tag.familiar())), tag.familiar());
    if (!tags.empty()) return {};
  }
  const bool is_tag = reference && !reference->tag.empty() && !reference->digest &&
                      TRY(catalog.by_reference(*reference));
  const auto image = TRY(catalog.find(name));
  put(image, is_tag ? reference->familiar() : "");
  return {};
}

}  // namespace

Result<int> load(const Words& words) {
  const auto input = TRY(open_input(words.text("input")));
  auto store = TRY(open_store());
  FileSource archive(input.get());
  for (const auto& image : TRY(load_images(store, archive))) {
    for (const auto& name : image.names) print("Loaded image: " + name.familiar() + "\n");
    if (image.names.empty()) print("Loaded image ID: " + image.id.text() + "\n");
  }
  return 0;
}

Result<int> save(const Words& words) {
  const auto output = words.text("output");
  if (output.empty() && ::isatty(STDOUT_FILENO) != 0) {
    return fail("cowardly refusing to save to a terminal. Use the -o flag or redirect");
  }
  auto store = TRY(open_store());
  Catalog catalog(store);
  std::vector<SavedImage> saved;
  for (const auto& name : words.names()) TRY(add_saved(catalog, name, saved));
  const auto write = [&](int fd) { return save_images(store, saved, fd); };
  TRY(output.empty() ? write(STDOUT_FILENO) : write_output_file(output, write));
  return 0;
}

Result<int> import_image(const Words& words) {
  const auto& source = words.names()[0];
  std::vector<Reference> names;
  if (words.names().size() > 1) {
    names.push_back(TRY(parse_reference(words.names()[1])).with_default_tag());
    if (names[0].digest) return fail("cannot import digest reference");
  }
  const auto platform =
      words.has("platform") ? TRY(Platform::parse(words.text("platform"))) : Platform::of_host();
  const auto input = TRY(open_input(source));
  auto store = TRY(open_store());
  const auto& content = store.content();
  // The archive as it came is the layer; its diff id is of what it unpacks to.
  auto writer = TRY(BlobWriter::create(content));
  KeptSource archive(input.get(), writer);
  const auto plain = TRY(Decompressor::create(archive));
  HashingSource unpacked(*plain, UINT64_MAX);
  const auto diff_id = TRY(unpacked.finish());
  std::vector<std::byte> rest(256u << 10);  // what stands behind the end of what is compressed
  while (TRY(archive.read(rest)) > 0) {
  }
  auto blob = writer.finish();
  TRY(content.publish(std::move(blob.file), Content::blob, blob.digest));
  const auto time = format_time(now());
  const auto message = words.has("message") ? words.text("message") : "Imported from " + source;
  const nlohmann::json config = {{"architecture", platform.architecture},
                                 {"os", platform.os},
                                 {"created", time},
                                 {"config", nlohmann::json::object()},
                                 {"rootfs", {{"type", "layers"}, {"diff_ids", {diff_id.text()}}}},
                                 {"history", {{{"created", time}, {"comment", message}}}}};
  const auto config_text = config.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  Manifest manifest;
  manifest.config = {"application/vnd.oci.image.config.v1+json",
                     TRY(content.add_blob(config_text)),
                     config_text.size(),
                     {},
                     {}};
  manifest.layers = {{TRY(layer_media_type(content, blob.digest)), blob.digest, blob.size, {}, {}}};
  const auto image =
      TRY(install_image(store, TRY(content.add_blob(write_manifest(manifest))), names));
  print(image.id.text() + "\n");
  return 0;
}

}  // namespace vmm::engine::cli
