// The manual page vmm(1), in mdoc(7).
#pragma once

#include <string>

#include "src/cli/help/page.h"

namespace vmm::cli {

// `date`: "November 30, 2026".
std::string manual(const Page& program, const std::string& date);

// Of today, or of $SOURCE_DATE_EPOCH, so that the same sources make the same page.
std::string manual_date();

}  // namespace vmm::cli
