// The commands: each takes its words, works on the store, prints, and returns the exit code.
#pragma once

#include <stdio.h>

#include <string>
#include <string_view>

#include "src/engine/cli/words.h"
#include "src/engine/image/catalog.h"
#include "src/engine/image/manifest.h"

namespace vmm::engine::cli {

Result<int> attach(const Words& words);
Result<int> commit(const Words& words);
Result<int> container_prune(const Words& words);
Result<int> copy(const Words& words);
Result<int> create(const Words& words);
Result<int> diff(const Words& words);
Result<int> exec(const Words& words);
Result<int> export_container(const Words& words);
Result<int> fork_container(const Words& words);
Result<int> history(const Words& words);
Result<int> image_inspect(const Words& words);
Result<int> image_prune(const Words& words);
Result<int> images(const Words& words);
Result<int> import_image(const Words& words);
Result<int> info(const Words& words);
Result<int> inspect(const Words& words);
Result<int> kill_containers(const Words& words);
Result<int> load(const Words& words);
Result<int> login(const Words& words);
Result<int> logout(const Words& words);
Result<int> logs(const Words& words);
Result<int> pause(const Words& words);
Result<int> port(const Words& words);
Result<int> ps(const Words& words);
Result<int> pull(const Words& words);
Result<int> pull_for_container(const Words& words);  // the image of `run` and `create`
Result<int> push(const Words& words);
Result<int> remove_containers(const Words& words);
Result<int> remove_images(const Words& words);
Result<int> rename_container(const Words& words);
Result<int> restart(const Words& words);
Result<int> run_container(const Words& words);
Result<int> save(const Words& words);
Result<int> snapshot_create(const Words& words);
Result<int> snapshot_inspect(const Words& words);
Result<int> snapshot_list(const Words& words);
Result<int> snapshot_remove(const Words& words);
Result<int> start(const Words& words);
Result<int> stats(const Words& words);
Result<int> stop(const Words& words);
Result<int> system_df(const Words& words);
Result<int> system_prune(const Words& words);
Result<int> tag(const Words& words);
Result<int> top(const Words& words);
Result<int> unpause(const Words& words);
Result<int> version(const Words& words);
Result<int> wait_for_containers(const Words& words);

// The store of this user, of $VMM_ROOT.
Result<Store> open_store();
std::string_view program();  // vmm, or docker: as it was called
std::int64_t now();          // seconds since 1970
// Whether standard output is a terminal. Guests, images and registries choose names: a person sees
// them without what gives a terminal orders; a program gets all bytes, as Docker has them.
bool is_for_a_person();
void print(std::string_view text);
// Of a name that is to stay on its line, for print().
std::string one_line(std::string text);
// A sentence on standard error, as main prints errors.
void print_error(std::string_view text);

// An id as it is shown.
std::string show_id(const Digest& id, bool whole);

}  // namespace vmm::engine::cli
