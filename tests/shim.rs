//! Starting programs, with the real binary as the shim.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::poll::{PollFd, PollFlags, poll};
use zdsup::sys::limits::{Nofile, Resource, limit};
use zdsup::sys::pidfd::ExitInfo;
use zdsup::sys::shim::{Blank, Identity, NEVER_WENT, Plan, Program, Report, Shim, is_shim, may_be_shim};

const ZDSUP: &str = env!("CARGO_BIN_EXE_zdsup");
const DEADLINE: u16 = 20_000;

/// A private directory that goes with its owner.
struct Home(PathBuf);

impl Home {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("zdsup-shim-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(fs::canonicalize(path).unwrap())
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        // Written by a child and not by us: a descriptor for writing that another test's child inherits between fork
        // and exec would make the execution fail with ETXTBSY.
        let plain = self.0.join(format!("{name}.plain"));
        fs::write(&plain, content).unwrap();
        assert!(Command::new("install").args(["-m", "755"]).args([&plain, &path]).status().unwrap().success());
        path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that dies with the test.
struct Kept(Shim);

impl Kept {
    fn next(&self) -> Report {
        readable(self.0.as_fd());
        self.0.receive().unwrap().expect("it was readable")
    }

    fn prepared(plan: &Plan<'_>) -> Self {
        let shim = Self(start(plan).unwrap());
        assert_eq!(shim.next(), Report::Prepared);
        shim
    }

    fn running(plan: &Plan<'_>) -> Self {
        let shim = Self::prepared(plan);
        shim.0.go().unwrap();
        assert_eq!(shim.next(), Report::Closed);
        shim
    }

    fn exit(self) -> ExitInfo {
        readable(self.0.pidfd.as_fd());
        self.0.pidfd.reap().unwrap().expect("it was readable")
    }

    fn status(&self, key: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.pid)).unwrap();
        status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.pidfd.signal(9);
        readable(self.0.pidfd.as_fd());
        let _ = self.0.pidfd.reap();
    }
}

fn start(plan: &Plan<'_>) -> std::io::Result<Shim> {
    Blank::start_from(Path::new(ZDSUP))?.send(plan)
}

fn readable(fd: BorrowedFd<'_>) {
    assert_eq!(poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], DEADLINE), Ok(1), "nothing happened in time");
}

fn program(command: impl AsRef<OsStr>) -> Program {
    Program::resolve(command.as_ref(), Path::new("/"), OsStr::new("/usr/bin:/bin")).unwrap()
}

fn plan<'a>(program: &'a Program, argv: &[&str], output: BorrowedFd<'a>) -> Plan<'a> {
    let (soft, hard) = limit(Resource::NOFILE).unwrap();
    Plan {
        program,
        argv: argv.iter().map(OsString::from).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        directory: "/".into(),
        stdout: output,
        stderr: output,
        fds: Vec::new(),
        extra: None,
        listen_pid: true,
        watchdog_pid: false,
        identity: None,
        umask: None,
        limits: Vec::new(),
        nofile: Nofile { soft, hard },
        nice: None,
        oom_score_adjust: None,
        no_new_privileges: false,
        cgroup: None,
    }
}

/// Runs a plan to its end and returns what it wrote.
fn output(edit: impl FnOnce(&mut Plan<'_>), program: &Program, argv: &[&str]) -> (String, ExitInfo) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut plan = plan(program, argv, writer.as_fd());
    edit(&mut plan);
    let shim = Kept::running(&plan);
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    (text, shim.exit())
}

fn failure(plan: &Plan<'_>) -> (String, String, String) {
    let shim = Kept(start(plan).unwrap());
    let mut report = shim.next();
    if report == Report::Prepared {
        shim.0.go().unwrap();
        report = shim.next();
    }
    let Report::Failed { step, error, hint } = report else { panic!("{report:?}") };
    assert_eq!(shim.next(), Report::Closed);
    assert_eq!(shim.exit(), ExitInfo::Code(127));
    (step, error, hint.unwrap_or_default())
}

fn null() -> &'static File {
    static NULL: OnceLock<File> = OnceLock::new();
    NULL.get_or_init(|| File::options().read(true).write(true).open("/dev/null").unwrap())
}

#[test]
fn a_program_gets_its_arguments_environment_and_directory() {
    let sh = program("sh");
    let home = Home::new();
    let directory = home.0.clone();
    let (text, exit) = output(
        |plan| {
            plan.env.push(("FOO".into(), "a b=c".into()));
            plan.directory = directory;
            plan.umask = Some(0o027);
        },
        &sh,
        &["mine", "-c", "echo \"$0,$1,$FOO,$(pwd),$(umask)\"; env | grep -c .; exit 3", "zero", "one"],
    );
    let mut lines = text.lines();
    assert_eq!(lines.next().unwrap(), format!("zero,one,a b=c,{},0027", home.0.display()));
    // PATH and FOO, and what sh itself exports (PWD, OLDPWD, SHLVL, `_`, by its kind).
    assert!(lines.next().unwrap().parse::<u32>().unwrap() <= 6);
    assert_eq!(exit, ExitInfo::Code(3));
}

#[test]
fn only_what_was_passed_is_open() {
    let null = null();
    let sleep = program("sleep");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut plan = plan(&sleep, &["sleep", "60"], null.as_fd());
    plan.fds = vec![listener.as_fd(), null.as_fd()];
    let pipe = std::io::pipe().unwrap();
    plan.extra = Some((9, pipe.1.as_fd()));
    let shim = Kept::running(&plan);
    let open = || {
        let mut open: Vec<(u32, String)> = fs::read_dir(format!("/proc/{}/fd", shim.0.pid))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let target = fs::read_link(entry.path()).unwrap_or_default();
                (entry.file_name().to_str().unwrap().parse().unwrap(), target.display().to_string())
            })
            .collect();
        open.sort();
        open
    };
    let seen = open();
    let numbers: Vec<u32> = seen.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 9], "{seen:?}");
    assert!(seen[3].1.starts_with("socket:"), "{seen:?}");
    assert_eq!(seen[4].1, "/dev/null");
    assert!(seen[5].1.starts_with("pipe:"), "{seen:?}");
}

#[test]
fn signals_and_session_are_as_at_birth() {
    let null = null();
    let sleep = program("sleep");
    let shim = Kept::running(&plan(&sleep, &["sleep", "60"], null.as_fd()));
    for key in ["SigBlk:", "SigIgn:", "SigCgt:"] {
        assert_eq!(u64::from_str_radix(&shim.status(key), 16).unwrap(), 0, "{key}");
    }
    assert_eq!(zdsup::sys::proc::session(shim.0.pid).unwrap(), Some(shim.0.pid));
    assert_eq!(zdsup::sys::proc::name(shim.0.pid).unwrap(), "sleep");
    shim.0.pidfd.signal(15).unwrap();
    assert_eq!(shim.exit(), ExitInfo::Signal { signal: 15, core: false });
}

#[test]
fn listen_pid_is_its_own() {
    let sh = program("sh");
    let null = null();
    let script = ["sh", "-c", "echo $$ $LISTEN_PID"];
    let (text, _) = output(
        |plan| {
            plan.fds.push(null.as_fd());
            plan.env.push(("LISTEN_PID".into(), "1".into()));
        },
        &sh,
        &script,
    );
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words.len(), 2);
    assert_eq!(words[0], words[1]);
    // None without descriptors, and none when a wrapper would only be confused by it.
    assert_eq!(output(|_| {}, &sh, &script).0.split_whitespace().count(), 1);
    let (text, _) = output(
        |plan| {
            plan.fds.push(null.as_fd());
            plan.listen_pid = false;
        },
        &sh,
        &script,
    );
    assert_eq!(text.split_whitespace().count(), 1);
}

#[test]
fn watchdog_pid_is_its_own() {
    let sh = program("sh");
    let script = ["sh", "-c", "echo $$ $WATCHDOG_PID"];
    let (text, _) = output(
        |plan| {
            plan.watchdog_pid = true;
            plan.env.push(("WATCHDOG_PID".into(), "1".into()));
        },
        &sh,
        &script,
    );
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words.len(), 2);
    assert_eq!(words[0], words[1]);
    assert_eq!(output(|_| {}, &sh, &script).0.split_whitespace().count(), 1);
}

#[test]
fn many_descriptors_and_a_large_plan() {
    let sh = program("sh");
    let null = null();
    let count = 600;
    let long = "x".repeat(100_000);
    let mut argv = vec!["sh", "-c", "echo $#; test -e /proc/self/fd/602 && test ! -e /proc/self/fd/603", "sh"];
    argv.extend(std::iter::repeat_n(long.as_str(), 12));
    let (text, exit) = output(|plan| plan.fds = vec![null.as_fd(); count], &sh, &argv);
    assert_eq!((text.trim(), exit), ("12", ExitInfo::Code(0)));
}

#[test]
fn a_readiness_descriptor_may_stand_anywhere_but_on_another() {
    let sh = program("sh");
    let null = null();
    let (mut reader, writer) = std::io::pipe().unwrap();
    for target in [1, 2, 4, 5, 6, 7, 8, 9, 10, 33] {
        let mut plan = plan(&sh, &["sh", "-c", "eval \"echo ready >/dev/fd/$0\""], null.as_fd());
        plan.argv.push(target.to_string().into());
        plan.fds = vec![null.as_fd()];
        plan.extra = Some((target, writer.as_fd()));
        assert_eq!(Kept::running(&plan).exit(), ExitInfo::Code(0), "{target}");
        let mut line = [0; 6];
        reader.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"ready\n", "{target}");
    }
    for target in [0, 3] {
        let mut plan = plan(&sh, &["sh"], null.as_fd());
        plan.fds = vec![null.as_fd()];
        plan.extra = Some((target, writer.as_fd()));
        assert_eq!(start(&plan).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn limits_and_privileges_are_set() {
    let null = null();
    let sleep = program("sleep");
    let mut plan = plan(&sleep, &["sleep", "60"], null.as_fd());
    plan.limits = vec![(Resource::from_name("core").unwrap(), 0, 0), (Resource::NOFILE, 16, 20)];
    plan.nice = Some(5);
    plan.oom_score_adjust = Some(500);
    plan.no_new_privileges = true;
    let shim = Kept::running(&plan);
    let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", shim.0.pid)).unwrap();
    let limits = read("limits");
    let row = |name: &str| -> Vec<String> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect()
    };
    assert_eq!(row("Max open files"), ["16", "20"]);
    assert_eq!(row("Max core file size"), ["0", "0"]);
    assert_eq!(read("oom_score_adj").trim(), "500");
    assert_eq!(shim.status("NoNewPrivs:"), "1");
    let stat = read("stat");
    assert_eq!(stat.rsplit_once(") ").unwrap().1.split(' ').nth(16), Some("5"));
}

#[test]
fn the_original_limit_on_open_files_comes_back() {
    let null = null();
    let sleep = program("sleep");
    let mut plan = plan(&sleep, &["sleep", "60"], null.as_fd());
    plan.nofile.soft = 123;
    let shim = Kept::running(&plan);
    let limits = fs::read_to_string(format!("/proc/{}/limits", shim.0.pid)).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().next(), Some("123"));
}

#[test]
fn another_user_is_become() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may become another user");
        return;
    }
    let null = null();
    let sleep = program("sleep");
    let mut plan = plan(&sleep, &["sleep", "60"], null.as_fd());
    plan.identity = Some(Identity { uid: 4711, gid: 4712, groups: vec![4713, 4714] });
    let shim = Kept::running(&plan);
    assert_eq!(shim.status("Uid:"), ["4711"; 4].join("\t"));
    assert_eq!(shim.status("Gid:"), ["4712"; 4].join("\t"));
    assert_eq!(shim.status("Groups:"), "4713 4714");
    assert_eq!(u64::from_str_radix(&shim.status("CapEff:"), 16).unwrap(), 0);
}

#[test]
fn what_the_user_may_not_reach_is_said() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may become another user");
        return;
    }
    let null = null();
    let home = Home::new();
    let path = home.put("tool", "#!/bin/sh\n");
    let tool = program(path.as_os_str());
    fs::set_permissions(&home.0, fs::Permissions::from_mode(0o700)).unwrap();
    let mut plan = plan(&tool, &["tool"], null.as_fd());
    plan.identity = Some(Identity { uid: 4711, gid: 4711, groups: vec![] });
    let (step, error, hint) = failure(&plan);
    assert_eq!((step, error), (format!("execute {}", path.display()), "permission denied".to_owned()));
    assert!(hint.contains("4711"));
    plan.directory = home.0.clone();
    let (step, error, hint) = failure(&plan);
    assert_eq!(
        (step, error),
        (format!("change to the directory {}", home.0.display()), "permission denied".to_owned())
    );
    assert!(hint.contains("4711"));
}

#[test]
fn a_cgroup_is_joined() {
    let parent = Path::new("/sys/fs/cgroup/unified");
    let parent = if parent.exists() { parent } else { Path::new("/sys/fs/cgroup") };
    let directory = parent.join(format!("zdsup-shim-test-{}", std::process::id()));
    if !parent.join("cgroup.procs").exists() || fs::create_dir(&directory).is_err() {
        eprintln!("skipped: there is no writable cgroup2 here");
        return;
    }
    let null = null();
    let sleep = program("sleep");
    let mut plan = plan(&sleep, &["sleep", "60"], null.as_fd());
    plan.cgroup = Some(directory.clone());
    let shim = Kept::running(&plan);
    let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap();
    assert_eq!(procs.trim(), shim.0.pid.to_string());
    drop(shim);
    fs::remove_dir(&directory).unwrap();
    let (step, error, _) = failure(&plan);
    assert_eq!((step, error), (format!("join the cgroup {}", directory.display()), "no such file or directory".into()));
}

/// Nothing is executed without go: a supervisor that dies before it has recorded a process leaves none.
#[test]
fn spawn_orphan() {
    let home = Home::new();
    let mark = home.0.join("mark");
    let touch = program("touch");
    let null = null();
    let plan = plan(&touch, &["touch", mark.to_str().unwrap()], null.as_fd());
    let Kept(Shim { .. }) = &Kept::prepared(&plan);
    let shim = start(&plan).unwrap();
    readable(shim.as_fd());
    let pid = shim.pid;
    drop(shim);
    let pidfd = zdsup::sys::pidfd::PidFd::open(pid).unwrap();
    readable(pidfd.as_fd());
    assert_eq!(pidfd.reap().unwrap(), Some(ExitInfo::Code(NEVER_WENT)));
    assert!(!mark.exists());
    // One that has not even read its plan ends as well.
    let shim = start(&plan).unwrap();
    let pid = shim.pid;
    drop(shim);
    let pidfd = zdsup::sys::pidfd::PidFd::open(pid).unwrap();
    readable(pidfd.as_fd());
    assert_eq!(pidfd.reap().unwrap(), Some(ExitInfo::Code(NEVER_WENT)));
    assert!(!mark.exists());
    // And one that never gets any.
    let blank = Blank::start_from(Path::new(ZDSUP)).unwrap();
    let pid = blank.pid;
    drop(blank);
    let pidfd = zdsup::sys::pidfd::PidFd::open(pid).unwrap();
    readable(pidfd.as_fd());
    assert_eq!(pidfd.reap().unwrap(), Some(ExitInfo::Code(NEVER_WENT)));
}

/// So that nobody takes one that exits for the program that it was to become.
#[test]
fn what_has_ended_is_neither_a_shim_nor_a_program() {
    let null = null();
    let sleep = program("sleep");
    let plan = plan(&sleep, &["sleep", "60"], null.as_fd());
    let (shim, running) = (Kept::prepared(&plan), Kept::running(&plan));
    assert!(is_shim(shim.0.pid).unwrap() && !is_shim(running.0.pid).unwrap());
    assert!(may_be_shim(shim.0.pid) && !may_be_shim(running.0.pid));
    for kept in [shim, running] {
        kept.0.pidfd.signal(9).unwrap();
        readable(kept.0.pidfd.as_fd());
        assert_eq!(is_shim(kept.0.pid).unwrap_err().kind(), std::io::ErrorKind::NotFound);
        assert!(may_be_shim(kept.0.pid), "it cannot be known any more");
    }
}

#[test]
fn a_shim_that_dies_closes_the_stream() {
    let null = null();
    let sleep = program("sleep");
    let shim = Kept::prepared(&plan(&sleep, &["sleep", "60"], null.as_fd()));
    assert_eq!(shim.0.receive().unwrap(), None);
    shim.0.pidfd.signal(9).unwrap();
    readable(shim.0.pidfd.as_fd());
    assert_eq!(shim.next(), Report::Closed);
    assert!(shim.0.go().is_err());
    assert_eq!(shim.exit(), ExitInfo::Signal { signal: 9, core: false });
}

#[test]
fn the_pinned_file_runs_although_its_path_has_moved_on() {
    let home = Home::new();
    let script = home.put("tool", "#!/bin/sh\necho old $1\n");
    let pinned = program(script.as_os_str());
    assert_eq!(output(|_| {}, &pinned, &["tool", "x"]).0, "old x\n");
    fs::rename(home.put("next", "#!/bin/sh\necho new $1\n"), &script).unwrap();
    assert_eq!(output(|_| {}, &pinned, &["tool", "x"]).0, "old x\n");
    assert_eq!(output(|_| {}, &program(script.as_os_str()), &["tool", "x"]).0, "new x\n");
    fs::remove_file(&script).unwrap();
    assert_eq!(output(|_| {}, &pinned, &["tool", "x"]).0, "old x\n");

    let binary = home.put("echo", fs::read(program("echo").real).unwrap());
    let pinned = program(binary.as_os_str());
    fs::rename(home.put("next", "#!/bin/sh\necho new\n"), &binary).unwrap();
    assert_eq!(output(|_| {}, &pinned, &["echo", "held"]).0, "held\n");
}

#[test]
fn a_script_knows_the_name_that_it_was_given() {
    let home = Home::new();
    home.put("tool-1", "#!/bin/sh\necho $0\n");
    std::os::unix::fs::symlink("tool-1", home.0.join("tool")).unwrap();
    let pinned = program(home.0.join("tool").as_os_str());
    assert_eq!(output(|_| {}, &pinned, &["tool"]).0, format!("{}\n", home.0.join("tool").display()));
    // Its own name has moved on, the file has not.
    fs::remove_file(home.0.join("tool")).unwrap();
    assert_eq!(output(|_| {}, &pinned, &["tool"]).0, format!("{}\n", home.0.join("tool-1").display()));
}

#[test]
fn what_cannot_be_executed_says_why() {
    let home = Home::new();
    let null = null();
    let told = |path: &Path, then: &dyn Fn()| {
        let pinned = program(path.as_os_str());
        then();
        let (step, error, hint) = failure(&plan(&pinned, &["tool"], null.as_fd()));
        assert_eq!(step, format!("execute {}", path.display()));
        (error, hint)
    };
    let path = home.put("format", "echo hello\n");
    assert_eq!(told(&path, &|| {}).0, "not an executable format (missing #! line?)");

    let interpreter = home.put("interpreter", "#!/bin/sh\n");
    let path = home.put("script", format!("#!{}\n", interpreter.display()));
    let (error, hint) = told(&path, &|| fs::remove_file(&interpreter).unwrap());
    assert_eq!(error, format!("its interpreter {} does not exist", interpreter.display()));
    assert!(!hint.is_empty());

    let path = home.put("mode", "#!/bin/sh\n");
    let (error, hint) = told(&path, &|| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap());
    assert_eq!(error, "permission denied");
    assert!(hint.contains("modes"));

    let path = home.put("busy", fs::read(program("true").real).unwrap());
    let writing = File::options().append(true).open(&path).unwrap();
    let (error, hint) = told(&path, &|| {});
    drop(writing);
    assert_eq!(error, "the file is open for writing");
    assert!(hint.contains("renaming"));

    let sh = program("sh");
    let mut plan = plan(&sh, &["sh"], null.as_fd());
    plan.argv.push("x".repeat(200_000).into());
    assert_eq!(failure(&plan).1, "its arguments and environment are too long");
}

#[test]
fn what_cannot_be_prepared_says_why() {
    let sh = program("sh");
    let null = null();
    let failed = |edit: &dyn Fn(&mut Plan<'_>)| {
        let mut plan = plan(&sh, &["sh"], null.as_fd());
        edit(&mut plan);
        failure(&plan)
    };
    let (step, error, _) = failed(&|plan| plan.directory = "/no/such/place".into());
    assert_eq!((&*step, &*error), ("change to the directory /no/such/place", "no such file or directory"));
    let (step, error, _) = failed(&|plan| plan.limits.push((Resource::NOFILE, 10, 5)));
    assert_eq!((&*step, &*error), ("set the limit nofile", "invalid argument"));
    let (step, _, hint) = failed(&|plan| plan.extra = Some((2_000_000_000, null.as_fd())));
    assert_eq!(step, "place the descriptors");
    assert!(hint.contains("limit"));
    let (_, error, _) = failed(&|plan| plan.argv.push("a\0b".into()));
    assert_eq!(error, "one has a NUL byte in it");
}

#[test]
fn the_shim_is_of_no_use_by_itself() {
    let run = Command::new(env!("CARGO_BIN_EXE_zdsup")).arg("__shim").output().unwrap();
    assert_eq!(run.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&run.stderr).contains("by itself"));
}

#[test]
#[ignore = "a measurement: cargo test --release --test shim -- --ignored --nocapture"]
fn what_a_start_costs() {
    let null = null();
    let program = program("true");
    let plan = plan(&program, &["true"], null.as_fd());
    let mut costs: Vec<[std::time::Duration; 3]> = (0..300)
        .map(|_| {
            let begun = std::time::Instant::now();
            let shim = Kept(start(&plan).unwrap());
            let made = begun.elapsed();
            assert_eq!(shim.next(), Report::Prepared);
            let prepared = begun.elapsed();
            shim.0.go().unwrap();
            assert_eq!(shim.next(), Report::Closed);
            [made, prepared, begun.elapsed()]
        })
        .collect();
    for (index, step) in ["made, without waiting", "prepared", "executed"].iter().enumerate() {
        costs.sort_by_key(|cost| cost[index]);
        println!(
            "{step}: least {:?}, median {:?}, 99th percentile {:?}",
            costs[0][index], costs[150][index], costs[297][index]
        );
    }
}
