//! What the files of the cluster promise one another: no engine is needed to see that.

use std::collections::BTreeMap;
use std::path::Path;

use super::engine::root;

const BASE: &str = "docker-compose.yml";
const SCALE: &str = "docker-compose.scale.yml";

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Variables and their defaults, as `${NAME:-default}` has them.
fn taken(text: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for rest in text.split("${").skip(1) {
        let (inner, _) = rest.split_once('}').unwrap();
        let (name, default) = inner.split_once(":-").unwrap_or((inner, ""));
        assert!(!default.is_empty(), "{name} has no default");
        let before = all.insert(name.to_owned(), default.to_owned());
        assert!(before.is_none_or(|before| before == default), "{name}");
    }
    all
}

/// All that `.env` may set is documented in `.env.example`, with the value that it has without.
#[test]
fn every_variable_is_documented() {
    let mut all = taken(&read(BASE));
    all.extend(taken(&read(SCALE)));
    let text = read(".env.example");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let documented: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(documented, all);
}

/// The lines of a block of YAML below `name:`, without comments, less its indentation.
fn block(text: &str, name: &str) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = text.lines();
    let key = format!("{name}:");
    let head = |line: &&str| line.trim_start().split(' ').next() == Some(key.as_str());
    let first = lines.find(head).unwrap_or_else(|| panic!("no {name}"));
    let within = lines.take_while(|line| line.is_empty() || indent(line) > indent(first));
    let lines = within.map(|line| line.split(" #").next().unwrap_or_default().trim_end());
    let lines = lines.filter(|line| !line.is_empty() && !line.trim_start().starts_with('#'));
    let lines: Vec<_> = lines.collect();
    let depth = lines.iter().map(|line| indent(line)).min().unwrap_or(0);
    lines.iter().map(|line| line[depth..].to_owned()).collect()
}

/// What both files say of the same, they say alike.
#[test]
fn the_two_compose_files_agree() {
    let (base, scale) = (read(BASE), read(SCALE));
    for name in ["x-hardened", "x-ringcast", "worker"] {
        assert_eq!(block(&scale, name), block(&base, name), "{name}");
    }
    let environment = block(&base, "x-server-environment");
    assert!(environment.len() > 5);
    let server = block(&scale, "server");
    assert_eq!(block(&server.join("\n"), "environment"), environment);
    // Another list of instances, and others to wait for.
    let different = |line: &&String| {
        let line = line.trim_start();
        !line.contains("/nginx/conf.d") && !line.contains(".d:") && !line.starts_with("server")
    };
    let of_base = block(&base, "nginx");
    let of_scale = block(&scale, "nginx");
    let common =
        |lines: &[String]| -> Vec<String> { lines.iter().filter(different).cloned().collect() };
    assert_eq!(common(&of_scale), common(&of_base));
    assert_eq!(of_base.len(), of_scale.len() + 2, "three servers, or one");
}

/// A container has more time to end than a drain takes.
#[test]
fn the_grace_is_longer_than_a_drain() {
    let grace = block(&read(BASE), "x-ringcast");
    let grace = grace.iter().find_map(|line| {
        let seconds = line.strip_prefix("stop_grace_period: ")?;
        seconds.strip_suffix('s')?.parse::<u64>().ok()
    });
    let settings = ringcast::config::settings::SETTINGS;
    let drain = settings.iter().find(|it| it.flag == "drain-window");
    let drain: u64 = drain
        .unwrap()
        .default
        .trim_end_matches('s')
        .parse()
        .unwrap();
    assert!(grace.unwrap() > drain + 2);
}

/// The image is built by the toolchain that the project names.
#[test]
fn the_image_is_built_by_the_same_rust() {
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.split("channel = \"").nth(1).unwrap();
    let channel = channel.split('"').next().unwrap();
    let dockerfile = read("Dockerfile");
    let tag = dockerfile.split("FROM rust:").nth(1).unwrap();
    let version = tag.split('-').next().unwrap();
    assert!(channel.starts_with(version), "{channel} and {version}");
    // The version is the program's own, too.
    let version = format!("ARG VERSION={}", env!("CARGO_PKG_VERSION"));
    assert!(dockerfile.contains(&version));
}

/// Nobody's way out of a profile that denies too much is to have none.
#[test]
fn nothing_runs_without_a_profile() {
    // In two parts, so that it does not find itself.
    let word = ["uncon", "fined"].concat();
    let mut files = 0;
    visit(root(), &mut |path| {
        files += 1;
        let text = std::fs::read(path).unwrap();
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains(&word), "{}", path.display());
    });
    assert!(files > 100, "the tree was not found");
    for file in [BASE, SCALE] {
        assert!(
            block(&read(file), "x-ringcast")
                .join("\n")
                .contains("seccomp=")
        );
        assert!(!read(file).contains("privileged"), "{file}");
    }
}

/// FAULTS H8: no container has rights that it does not need, the image's user has none, and no port
/// of Redis or PostgreSQL is published; those of single servers only to this machine.
#[test]
fn containers_have_few_rights_and_ports() {
    let dockerfile = read("Dockerfile");
    let user = dockerfile.lines().rfind(|line| line.starts_with("USER "));
    assert_eq!(user, Some("USER 10001:10001"));
    for file in [BASE, SCALE] {
        let text = read(file);
        let hardened = block(&text, "x-hardened");
        for line in ["read_only: true", "cap_drop: [ALL]"] {
            assert!(hardened.iter().any(|it| it == line), "{file}: {line}");
        }
        assert!(hardened.join("\n").contains("no-new-privileges:true"));
        assert!(
            block(&text, "x-ringcast")
                .iter()
                .any(|it| it == "<<: *hardened")
        );
        let services = block(&text, "services");
        let names: Vec<_> = services
            .iter()
            .filter(|line| !line.starts_with(' '))
            .map(|line| line.trim_end_matches(':'))
            .collect();
        assert!(names.len() >= 5, "{names:?}");
        for name in names {
            let service = block(&services.join("\n"), name);
            let is = |line: &str| service.iter().any(|it| it == line);
            let of_base = service
                .iter()
                .any(|it| it.starts_with("extends: {file: docker-compose.yml"));
            assert!(
                of_base || is("<<: *hardened") || is("<<: *ringcast"),
                "{file}: {name}"
            );
            let ports: Vec<_> = service
                .iter()
                .filter(|line| line.starts_with("ports:"))
                .collect();
            match name {
                "nginx" => assert_eq!(ports.len(), 1),
                _ => assert!(
                    ports.iter().all(|line| line.contains("[\"127.0.0.1:")),
                    "{file}: {name}: {ports:?}"
                ),
            }
            let is_ours = is("<<: *ringcast");
            let adds = service.iter().any(|line| line.starts_with("cap_add:"));
            assert!(!(is_ours && adds), "{file}: {name} needs no capability");
            if ["redis", "postgres"].contains(&name) {
                assert!(ports.is_empty(), "{file}: {name} is not published");
            }
        }
    }
}

/// Every file of the project, without what is built.
fn visit(folder: &Path, each: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let name = entry.file_name();
        if kind.is_dir()
            && ![".git", "target", "data", "node_modules"]
                .iter()
                .any(|it| name == *it)
        {
            visit(&path, each);
        } else if kind.is_file() && name != ".git" {
            each(&path);
        }
    }
}
