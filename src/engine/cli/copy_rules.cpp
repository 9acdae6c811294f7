#include "src/engine/cli/copy_rules.h"

#include "src/engine/erofs/tree.h"

namespace vmm::engine::cli {

CopyName parse_copy_name(const std::string& word) {
  const auto colon = word.find(':');
  if (word.starts_with('/') || word.starts_with('.') || colon == std::string::npos) {
    return {"", word};
  }
  return {word.substr(0, colon), word.substr(colon + 1)};
}

CopyPath CopyPath::clean(const std::string& text, const std::string& base) {
  std::string path;
  for (const auto& part :
       erofs::clean_components(text.starts_with('/') ? text : base + "/" + text)) {
    path += "/" + part;
  }
  if (text == "." || text.ends_with("/.")) return {path + "/."};
  return {text.ends_with('/') || path.empty() ? path + "/" : path};
}

std::string CopyPath::name() const {
  const auto end = path.find_last_not_of('/');
  if (end == std::string::npos) return ".";
  const auto start = path.rfind('/', end);
  return path.substr(start + 1, end - start);
}

std::string CopyPath::parent() const {
  const auto end = path.find_last_not_of('/');
  if (end == std::string::npos) return "/";
  const auto start = path.rfind('/', end);
  return start == 0 ? "/" : path.substr(0, start);
}

Result<CopyTarget> copy_target(const std::string& name, bool is_directory, const CopyPath& to,
                               Existing existing) {
  if (existing == Existing::directory) return CopyTarget{to.path, name};
  if (existing == Existing::other && is_directory) return fail("cannot copy directory");
  if (existing == Existing::nothing && !is_directory && to.asks_for_directory()) {
    return fail("no such directory");
  }
  return CopyTarget{to.parent(), to.name()};
}

}  // namespace vmm::engine::cli
