//! What goes between the supervisor and the shim. Both are the same executable, so that there are no versions: only
//! lengths are checked, against a shim that was started by somebody else.
//!
//! Towards the shim: one message that says how many descriptors there are, with the first of them, and more messages
//! for those beyond the 253 that one can carry; then one byte for `go`. The plan itself is in a memfd, the first of the
//! descriptors: arguments and environment may take 2 MiB, which no socket holds. From the shim: a [`Report`] a message.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::{Identity, Plan, Report};
use crate::sys::limits::{Nofile, Resource};

/// The hidden first argument.
pub(super) const ARGUMENT: &str = "__shim";

/// The message that lets the shim execute.
pub(super) const GO: &[u8] = b"go";

/// Longest report; its texts are cut to fit.
pub(super) const REPORT_LEN: usize = 16 << 10;

/// A [`Plan`] as the shim sees it, without the descriptors.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Orders {
    pub(super) path: PathBuf,
    pub(super) real: PathBuf,
    pub(super) interpreter: Option<PathBuf>,
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) directory: PathBuf,
    /// How many descriptors go from 3 on.
    pub(super) fds: u32,
    pub(super) extra: Option<u32>,
    pub(super) listen_pid: bool,
    pub(super) watchdog_pid: bool,
    pub(super) identity: Option<Identity>,
    pub(super) umask: Option<u32>,
    pub(super) limits: Vec<(Resource, u64, u64)>,
    pub(super) nofile: Nofile,
    pub(super) nice: Option<i32>,
    pub(super) oom_score_adjust: Option<i32>,
    pub(super) no_new_privileges: bool,
    pub(super) cgroup: Option<PathBuf>,
}

impl Orders {
    pub(super) fn encode(plan: &Plan<'_>) -> Vec<u8> {
        let mut out = Writer::default();
        out.string(plan.program.path.as_os_str());
        out.string(plan.program.real.as_os_str());
        out.option(plan.program.interpreter.as_ref(), |out, path| out.string(path.as_os_str()));
        out.list(&plan.argv, |out, word| out.string(word));
        out.list(&plan.env, |out, (key, value)| {
            out.string(key);
            out.string(value);
        });
        out.string(plan.directory.as_os_str());
        out.number(plan.fds.len() as u64);
        out.option(plan.extra.as_ref(), |out, (target, _)| out.number((*target).into()));
        out.number(plan.listen_pid.into());
        out.number(plan.watchdog_pid.into());
        out.option(plan.identity.as_ref(), |out, who| {
            out.number(who.uid.into());
            out.number(who.gid.into());
            out.list(&who.groups, |out, group| out.number((*group).into()));
        });
        out.option(plan.umask.as_ref(), |out, mask| out.number((*mask).into()));
        out.list(&plan.limits, |out, (resource, soft, hard)| {
            out.signed(resource.number());
            out.number(*soft);
            out.number(*hard);
        });
        out.number(plan.nofile.soft);
        out.number(plan.nofile.hard);
        out.option(plan.nice.as_ref(), |out, nice| out.signed(*nice));
        out.option(plan.oom_score_adjust.as_ref(), |out, adjust| out.signed(*adjust));
        out.number(plan.no_new_privileges.into());
        out.option(plan.cgroup.as_ref(), |out, path| out.string(path.as_os_str()));
        out.0
    }

    pub(super) fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut from = Reader(bytes);
        Ok(Self {
            path: from.string()?.into(),
            real: from.string()?.into(),
            interpreter: from.option(Reader::string)?.map(PathBuf::from),
            argv: from.list(Reader::string)?,
            env: from.list(|from| Ok((from.string()?, from.string()?)))?,
            directory: from.string()?.into(),
            fds: from.small()?,
            extra: from.option(Reader::small)?,
            listen_pid: from.flag()?,
            watchdog_pid: from.flag()?,
            identity: from.option(|from| {
                Ok(Identity { uid: from.small()?, gid: from.small()?, groups: from.list(Reader::small)? })
            })?,
            umask: from.option(Reader::small)?,
            limits: from.list(|from| {
                let resource = Resource::from_number(from.signed()?).ok_or_else(malformed)?;
                Ok((resource, from.number()?, from.number()?))
            })?,
            nofile: Nofile { soft: from.number()?, hard: from.number()? },
            nice: from.option(Reader::signed)?,
            oom_score_adjust: from.option(Reader::signed)?,
            no_new_privileges: from.flag()?,
            cgroup: from.option(Reader::string)?.map(PathBuf::from),
        })
    }
}

impl Report {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Prepared => out.number(1),
            Self::Failed { step, error, hint } => {
                let cut = |text: &str| OsString::from_vec(text.as_bytes()[..text.len().min(REPORT_LEN / 4)].to_owned());
                out.number(2);
                out.string(&cut(step));
                out.string(&cut(error));
                out.option(hint.as_deref(), |out, hint| out.string(&cut(hint)));
            }
            // Never said: it is the end of the stream.
            Self::Closed => out.number(3),
        }
        out.0
    }

    pub(super) fn decode(bytes: &[u8]) -> io::Result<Self> {
        let text = |from: &mut Reader<'_>| Ok(from.string()?.to_string_lossy().into_owned());
        let mut from = Reader(bytes);
        match from.number()? {
            1 => Ok(Self::Prepared),
            2 => Ok(Self::Failed { step: text(&mut from)?, error: text(&mut from)?, hint: from.option(text)? }),
            _ => Err(malformed()),
        }
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn signed(&mut self, value: i32) {
        self.number(u64::from(value.cast_unsigned()));
    }

    fn string(&mut self, value: &OsStr) {
        self.number(value.len() as u64);
        self.0.extend_from_slice(value.as_bytes());
    }

    fn option<T: ?Sized>(&mut self, value: Option<&T>, write: impl Fn(&mut Self, &T)) {
        self.number(value.is_some().into());
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn list<T>(&mut self, values: &[T], write: impl Fn(&mut Self, &T)) {
        self.number(values.len() as u64);
        for value in values {
            write(self, value);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self) -> io::Result<u64> {
        let (head, tail) = self.0.split_first_chunk().ok_or_else(malformed)?;
        self.0 = tail;
        Ok(u64::from_le_bytes(*head))
    }

    fn small(&mut self) -> io::Result<u32> {
        u32::try_from(self.number()?).map_err(|_| malformed())
    }

    fn signed(&mut self) -> io::Result<i32> {
        Ok(self.small()?.cast_signed())
    }

    fn flag(&mut self) -> io::Result<bool> {
        Ok(self.number()? != 0)
    }

    fn string(&mut self) -> io::Result<OsString> {
        let length = usize::try_from(self.number()?).map_err(|_| malformed())?;
        let (head, tail) = self.0.split_at_checked(length).ok_or_else(malformed)?;
        self.0 = tail;
        Ok(OsString::from_vec(head.to_owned()))
    }

    fn option<T>(&mut self, read: impl Fn(&mut Self) -> io::Result<T>) -> io::Result<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    fn list<T>(&mut self, read: impl Fn(&mut Self) -> io::Result<T>) -> io::Result<Vec<T>> {
        // Collected one by one: a length that lies runs out of bytes before it can claim memory.
        (0..self.number()?).map(|_| read(self)).collect()
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed message between zdsup and its shim")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;
    use crate::sys::shim::Program;

    fn plan<'a>(program: &'a Program, null: &'a std::fs::File) -> Plan<'a> {
        Plan {
            program,
            argv: vec!["sh".into(), OsString::from_vec(vec![0xff, b'\n'])],
            env: vec![("A".into(), "1=2".into()), ("B".into(), OsString::new())],
            directory: "/tmp".into(),
            stdout: null.as_fd(),
            stderr: null.as_fd(),
            fds: vec![null.as_fd(); 2],
            extra: Some((7, null.as_fd())),
            listen_pid: true,
            watchdog_pid: true,
            identity: Some(Identity { uid: 1, gid: 2, groups: vec![3, 4] }),
            umask: Some(0o027),
            limits: vec![(Resource::NOFILE, 1, u64::MAX)],
            nofile: Nofile { soft: 1024, hard: 4096 },
            nice: Some(-5),
            oom_score_adjust: Some(-1000),
            no_new_privileges: true,
            cgroup: Some("/sys/fs/cgroup/x".into()),
        }
    }

    #[test]
    fn a_plan_arrives_as_it_was_sent() {
        let program = Program::resolve("sh".as_ref(), Path::new("/"), "/bin".as_ref()).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let plan = plan(&program, &null);
        let orders = Orders::decode(&Orders::encode(&plan)).unwrap();
        assert_eq!(orders.path, program.path);
        assert_eq!(orders.real, program.real);
        assert_eq!(orders.interpreter, program.interpreter);
        assert_eq!(orders.argv, plan.argv);
        assert_eq!(orders.env, plan.env);
        assert_eq!(orders.directory, plan.directory);
        assert_eq!((orders.fds, orders.extra), (2, Some(7)));
        assert!(orders.listen_pid && orders.watchdog_pid);
        assert_eq!(orders.identity, plan.identity);
        assert_eq!(orders.umask, plan.umask);
        assert_eq!(orders.limits, plan.limits);
        assert_eq!(orders.nofile, plan.nofile);
        assert_eq!((orders.nice, orders.oom_score_adjust), (Some(-5), Some(-1000)));
        assert!(orders.no_new_privileges);
        assert_eq!(orders.cgroup, plan.cgroup);
    }

    #[test]
    fn a_plan_that_is_cut_short_is_refused() {
        let program = Program::resolve("sh".as_ref(), Path::new("/"), "/bin".as_ref()).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let bytes = Orders::encode(&plan(&program, &null));
        for length in 0..bytes.len() {
            assert!(Orders::decode(&bytes[..length]).is_err(), "{length}");
        }
        assert!(Orders::decode(&[0xff; 64]).is_err());
    }

    #[test]
    fn reports_arrive_and_fit() {
        let failed = Report::Failed { step: "x".into(), error: "y".into(), hint: Some("z".into()) };
        for report in [Report::Prepared, failed] {
            assert_eq!(Report::decode(&report.encode()).unwrap(), report);
        }
        let long =
            Report::Failed { step: "é".repeat(9000), error: "e".repeat(90_000), hint: Some("h".repeat(90_000)) };
        let bytes = long.encode();
        assert!(bytes.len() <= REPORT_LEN);
        assert!(Report::decode(&bytes).is_ok());
        assert!(Report::decode(b"").is_err());
    }
}
