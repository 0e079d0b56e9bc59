//! The pages that an instance serves: files of their own, included at build time.
//!
//! No templates and nothing of a request goes into them; what users write becomes text nodes in
//! the browser, never markup. Script and style are files beside the page, so that the policy can
//! forbid everything inline.

/// A file as it is served.
#[derive(Debug)]
pub struct Asset {
    /// Its path in the request.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// Its bytes.
    pub body: &'static str,
}

/// The headers of every asset. `connect-src 'self'` covers WebSockets of the same host.
pub const HEADERS: &[(&str, &str)] = &[
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
];

/// Nothing from elsewhere, nothing inline, in nobody's frame.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; \
    style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const ASSETS: &[Asset] = &[
    Asset {
        path: "/",
        content_type: "text/html; charset=utf-8",
        body: include_str!("index.html"),
    },
    Asset {
        path: "/page.js",
        content_type: "text/javascript; charset=utf-8",
        body: include_str!("page.js"),
    },
    Asset {
        path: "/page.css",
        content_type: "text/css; charset=utf-8",
        body: include_str!("page.css"),
    },
];

/// The file at `path`, if there is one.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_keeps_its_own_policy() {
        let page = asset("/").unwrap().body;
        for inline in [
            "<style", "<script>", "style=", "onclick", "http://", "https://", "//cdn",
        ] {
            assert!(!page.contains(inline), "{inline}");
        }
        let script = asset("/page.js").unwrap().body;
        for sink in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!script.contains(sink), "{sink}");
        }
        assert!(!script.contains("http://") && !script.contains("https://"));
    }

    #[test]
    fn what_the_page_names_is_there() {
        let page = asset("/").unwrap().body;
        let named = page.split(['"']).filter(|text| text.starts_with('/'));
        let named: Vec<_> = named.collect();
        assert_eq!(named, ["/page.css", "/page.js"]);
        assert!(named.iter().all(|path| asset(path).is_some()));
        assert!(asset("/../main.rs").is_none());
        // Every element that the script takes by its id.
        let script = asset("/page.js").unwrap().body;
        let ids: Vec<_> = script.split("byId('").skip(1).collect();
        assert!(ids.len() > 5);
        for id in ids {
            let id = id.split('\'').next().unwrap();
            assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
        }
    }
}
