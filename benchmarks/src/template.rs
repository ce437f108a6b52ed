//! Templates of command lines: literal text with slots such as `{port}`.

use covey_tests::Random;

/// The templates that ship with the project.
const PROCESSES: &str = include_str!("../templates/processes.txt");

/// The application of kernel threads, which every system runs.
pub const KERNEL: &str = "kernel";

/// One way in which an application is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// `None` for what belongs to no application.
    pub app: Option<String>,
    pub weight: u64,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Slot(Slot),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Slot {
    Number,
    Port,
    Pid,
    Ip,
    User,
    Host,
    Memory,
    Version,
    Major,
    Uuid,
    Hex(usize),
    Disk,
    Name,
    Date,
    Choice(Vec<String>),
}

const USERS: [&str; 14] = [
    "root", "deploy", "ubuntu", "admin", "jenkins", "www-data", "alice", "bob", "carol", "svc", "backup", "ec2-user",
    "mallory", "ops",
];
const HOSTS: [&str; 10] = ["web", "db", "cache", "node", "worker", "edge", "build", "store", "gw", "mon"];
const DISKS: [&str; 10] = ["sda1", "sdb", "sdc1", "nvme0n1p1", "nvme0n1p2", "nvme1n1", "dm-0", "dm-3", "md127", "vda1"];
const SYLLABLES: [&str; 24] = [
    "ar", "bel", "cor", "dan", "el", "far", "gor", "hal", "in", "jor", "kal", "lum", "mor", "nex", "or", "pel", "quo",
    "ran", "sol", "tor", "ul", "vex", "wil", "zan",
];
const MEMORY: [&str; 9] = ["256m", "512m", "1g", "2g", "4g", "8g", "16g", "1024m", "3072m"];

/// The templates of the project.
///
/// # Errors
/// Names the line that is no template.
pub fn all() -> Result<Vec<Template>, String> {
    let line = |(i, text): (usize, &str)| Template::parse(text).map_err(|e| format!("template line {}: {e}", i + 1));
    PROCESSES.lines().enumerate().filter(|(_, text)| !text.is_empty() && !text.starts_with('#')).map(line).collect()
}

impl Template {
    /// `app|weight|command`.
    fn parse(line: &str) -> Result<Self, String> {
        let fields: Vec<&str> = line.splitn(3, '|').collect();
        let [app, weight, command] = fields[..] else {
            return Err(format!("{line:?} has no three fields"));
        };
        let weight = weight.parse().map_err(|_| format!("{weight:?} is no weight"))?;
        Ok(Self { app: (!app.is_empty()).then(|| app.to_string()), weight, parts: parts(command)? })
    }

    pub fn is_kernel(&self) -> bool {
        self.app.as_deref() == Some(KERNEL)
    }

    /// The command line with its slots filled: those of a configuration from `configured`, those that change with
    /// every start from `started`.
    pub fn fill(&self, configured: &mut Random, started: &mut Random) -> String {
        let mut command = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => command.push_str(text),
                Part::Slot(slot) => command.push_str(&slot.value(configured, started)),
            }
        }
        command
    }
}

fn parts(command: &str) -> Result<Vec<Part>, String> {
    let mut parts = vec![];
    let mut rest = command;
    while let Some(start) = rest.find('{') {
        let end = rest[start..].find('}').ok_or_else(|| format!("{command:?} has an open brace"))? + start;
        if start > 0 {
            parts.push(Part::Text(rest[..start].to_string()));
        }
        parts.push(Part::Slot(Slot::parse(&rest[start + 1..end])?));
        rest = &rest[end + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_string()));
    }
    Ok(parts)
}

impl Slot {
    fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "n" => Self::Number,
            "port" => Self::Port,
            "pid" => Self::Pid,
            "ip" => Self::Ip,
            "user" => Self::User,
            "host" => Self::Host,
            "mem" => Self::Memory,
            "version" => Self::Version,
            "major" => Self::Major,
            "uuid" => Self::Uuid,
            "hex" => Self::Hex(12),
            "hex64" => Self::Hex(64),
            "disk" => Self::Disk,
            "name" => Self::Name,
            "date" => Self::Date,
            _ => match name.strip_prefix("choice:") {
                Some(words) => Self::Choice(words.split(',').map(String::from).collect()),
                None => return Err(format!("there is no slot {{{name}}}")),
            },
        })
    }

    fn value(&self, configured: &mut Random, started: &mut Random) -> String {
        match self {
            Self::Number => configured.below(64).to_string(),
            Self::Port => (1_024 + configured.below(48_000)).to_string(),
            Self::Pid => (300 + started.below(60_000)).to_string(),
            Self::Ip => {
                format!("10.{}.{}.{}", configured.below(32), configured.below(256), 1 + configured.below(254))
            }
            Self::User => configured.pick(&USERS).to_string(),
            Self::Host => format!("{}{:02}", configured.pick(&HOSTS), configured.below(40)),
            Self::Memory => configured.pick(&MEMORY).to_string(),
            Self::Version => format!("{}.{}.{}", 1 + configured.below(12), configured.below(24), configured.below(30)),
            Self::Major => (7 + configured.below(12)).to_string(),
            Self::Uuid => uuid::Builder::from_random_bytes(two(started)).into_uuid().to_string(),
            Self::Hex(digits) => {
                (0..*digits).map(|_| char::from(b"0123456789abcdef"[started.below(16) as usize])).collect()
            }
            Self::Disk => configured.pick(&DISKS).to_string(),
            Self::Name => (0..2 + configured.below(2)).map(|_| *configured.pick(&SYLLABLES)).collect(),
            Self::Date => format!("2019{:02}{:02}", 1 + started.below(12), 1 + started.below(28)),
            Self::Choice(words) => configured.pick(words).clone(),
        }
    }
}

fn two(random: &mut Random) -> [u8; 16] {
    let (a, b) = (random.number().to_le_bytes(), random.number().to_le_bytes());
    std::array::from_fn(|i| if i < 8 { a[i] } else { b[i - 8] })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Goal: the templates that ship are whole: all parse, and there are applications enough.
    #[test]
    fn the_templates_parse() {
        let templates = all().unwrap();
        let apps: BTreeSet<&str> = templates.iter().filter_map(|template| template.app.as_deref()).collect();
        assert!(apps.len() > 120, "{}", apps.len());
        assert!(templates.iter().any(|template| template.app.is_none()));
        assert!(templates.iter().filter(|template| template.is_kernel()).count() >= 20);
    }

    /// Goal: a configuration keeps its values, and what changes with a start changes.
    #[test]
    fn slots_are_filled() {
        let template = Template::parse("x|1|a {port} {pid} {choice:b,c}").unwrap();
        let fill = |configured, started| template.fill(&mut Random::of(&[configured]), &mut Random::of(&[started]));
        assert_eq!(fill(1, 1), fill(1, 1));
        let (before, after) = (fill(1, 1), fill(1, 2));
        assert_ne!(before, after);
        let port = |line: &str| line.split(' ').nth(1).map(String::from);
        assert_eq!(port(&before), port(&after));
        assert!(Template::parse("x|1|{what}").unwrap_err().contains("what"));
        assert!(Template::parse("x|1").is_err());
    }
}
