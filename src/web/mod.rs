//! The pages that an instance serves: files of their own, included at build time.
//!
//! | file | what |
//! |---|---|
//! | `ringcast/ringcast.js` | the client of the protocol, for others too: a package of npm's shape |
//! | `index.html`, `page.css` | the page, and how it looks |
//! | `page.js` | what the page does, over the client |
//! | `page-rooms.js`, `page-view.js` | what it knows of its rooms; what is seen of them |
//! | `page-token.js` | the token that it shows, where one is asked for |
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

impl Asset {
    /// What tells this content from another (RFC 9110, 8.8.3): the same on every instance of a
    /// version, so that browsers and proxies may revalidate with any of them.
    pub fn etag(&self) -> String {
        let bytes = self.body.as_bytes();
        format!("\"{:x}-{:08x}\"", bytes.len(), crc32fast::hash(bytes))
    }
}

/// Whether an `If-None-Match` has this tag (RFC 9110, 13.1.2): weakly compared, since a proxy that
/// compresses makes weak ones of ours.
pub fn is_known(if_none_match: &str, etag: &str) -> bool {
    let mut tags = if_none_match.split(',').map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
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

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const ASSETS: &[Asset] = &[
    Asset {
        path: "/",
        content_type: HTML,
        body: include_str!("index.html"),
    },
    Asset {
        path: "/page.css",
        content_type: STYLE,
        body: include_str!("page.css"),
    },
    Asset {
        path: "/page.js",
        content_type: SCRIPT,
        body: include_str!("page.js"),
    },
    Asset {
        path: "/page-rooms.js",
        content_type: SCRIPT,
        body: include_str!("page-rooms.js"),
    },
    Asset {
        path: "/page-token.js",
        content_type: SCRIPT,
        body: include_str!("page-token.js"),
    },
    Asset {
        path: "/page-view.js",
        content_type: SCRIPT,
        body: include_str!("page-view.js"),
    },
    Asset {
        path: "/ringcast.js",
        content_type: SCRIPT,
        body: include_str!("ringcast/ringcast.js"),
    },
];

/// The file at `path`, if there is one.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn scripts() -> impl Iterator<Item = &'static Asset> {
        ASSETS.iter().filter(|asset| asset.content_type == SCRIPT)
    }

    #[test]
    fn the_page_keeps_its_own_policy() {
        let page = asset("/").unwrap().body;
        for inline in [
            "<style", "<script>", "style=", "onclick", "http://", "https://", "//cdn",
        ] {
            assert!(!page.contains(inline), "{inline}");
        }
        assert_eq!(scripts().count(), 5);
        for Asset { path, body, .. } in scripts() {
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "createContextualFragment",
                "DOMParser",
                "document.write",
                "eval(",
                "new Function",
                "http://",
                "https://",
            ] {
                assert!(!body.contains(sink), "{path}: {sink}");
            }
        }
        let style = asset("/page.css").unwrap().body;
        assert!(!style.contains("url(") && !style.contains("@import"));
    }

    #[test]
    fn what_is_named_is_there() {
        let page = asset("/").unwrap().body;
        let values = page
            .split("=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next());
        let mut named: BTreeSet<_> = values.filter(|value| value.starts_with('/')).collect();
        for script in scripts() {
            let imports = script.body.lines().filter(|line| line.contains(" from '"));
            named.extend(
                imports.map(|line| line.split('\'').nth(1).unwrap().trim_start_matches('.')),
            );
        }
        named.insert("/");
        let served: BTreeSet<_> = ASSETS.iter().map(|asset| asset.path).collect();
        assert_eq!(named, served, "what is named, and what is served");
        assert!(asset("/../main.rs").is_none());
    }

    /// Every element that the scripts take by its id.
    #[test]
    fn the_elements_that_are_taken_are_there() {
        let page = asset("/").unwrap().body;
        let mut count = 0;
        for script in scripts() {
            for id in script.body.split("byId('").skip(1) {
                let id = id.split('\'').next().unwrap();
                assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
                count += 1;
            }
        }
        assert!(count > 20);
    }

    #[test]
    fn the_package_bears_the_program_s_version_and_licence() {
        let package = include_str!("ringcast/package.json");
        for (member, value) in [
            ("version", env!("CARGO_PKG_VERSION")),
            ("license", env!("CARGO_PKG_LICENSE")),
        ] {
            assert!(
                package.contains(&format!("\"{member}\": \"{value}\"")),
                "{member}"
            );
        }
    }

    #[test]
    fn tags_are_of_the_content() {
        let tags: BTreeSet<_> = ASSETS.iter().map(Asset::etag).collect();
        assert_eq!(tags.len(), ASSETS.len());
        let etag = ASSETS[0].etag();
        for (known, is_it) in [
            (etag.clone(), true),
            (format!("W/{etag}"), true),
            (format!("\"a\", {etag}"), true),
            ("*".into(), true),
            ("\"a\"".into(), false),
            (etag.trim_matches('"').into(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_known(&known, &etag), is_it, "{known}");
        }
    }
}
