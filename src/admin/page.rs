//! The page for people: three files in the binary, nothing from elsewhere.

use super::http::{Request, Response, Status};

const HTML: &str = include_str!("page/index.html");
const CSS: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// What `/` says to those who cannot show a page.
const INDEX: &str = "\
nearkey admin

/health    how things are, as JSON; 503 when the upstream is down
/ready     200 when new clients are welcome
/live      200 as long as the process runs
/metrics   Prometheus metrics
/hotkeys   the keys used most, and what L1 does with them: ?by=reads|misses|bytes|writes&n=20&format=text
/overview  what the page at / shows, as JSON: ?sample=n&event=n for what is newer

Open / in a browser for the page, or run `nearkey top` for the same in a terminal.
";

/// A file of the page, if that is what is asked for.
pub(super) fn file(request: &Request) -> Option<Response> {
    Some(match request.path.as_str() {
        "/" if request.wants_html => Response::asset("text/html; charset=utf-8", HTML),
        "/" => Response::text(Status::Ok, INDEX),
        "/page.css" => Response::asset("text/css; charset=utf-8", CSS),
        "/page.js" => Response::asset("text/javascript; charset=utf-8", SCRIPT),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for text in [HTML, CSS, SCRIPT] {
            let links = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!links.contains("http://") && !links.contains("https://"));
        }
        assert!(!HTML.contains("<style") && !HTML.contains(" style="));
        assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("eval("));
        let size = HTML.len() + CSS.len() + SCRIPT.len();
        assert!(size < 64 * 1024, "{size}");
    }
}
