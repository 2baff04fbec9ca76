// The status page: constant files that read /api/status. No text of a site gets into them but as
// text content.
#pragma once

#include <string_view>

namespace tidegate::web {

extern const std::string_view kPageHtml;
extern const std::string_view kPageCss;
extern const std::string_view kPageJs;

}  // namespace tidegate::web
