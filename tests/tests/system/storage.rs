//! Disks that are full or cannot be written.

use crate::support::{HUNG, Machine};
use fault_server::{Answer, Reply, Script, wait_until};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CStr;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A file system of a few hundred kilobytes, there while this lives.
struct SmallDisk {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one, or says why not: only root may.
    #[expect(clippy::print_stdout, reason = "a test that was skipped says so")]
    fn mount(options: &CStr) -> Option<Self> {
        let folder = tempfile::TempDir::with_prefix("longhand-disk-").expect("a temporary folder");
        let path = folder.path().to_path_buf();
        match mount("tmpfs", &path, "tmpfs", MountFlags::empty(), options) {
            Ok(()) => Some(Self { path, _folder: folder }),
            Err(error) => {
                println!("skipped: a file system of a test's own cannot be mounted here ({error})");
                None
            }
        }
    }

    /// Fills what is left.
    fn fill(&self) {
        let mut filler = fs::File::create(self.path.join("filler")).expect("there is room for a name");
        while filler.write_all(&[b'x'; 1024]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.path.join("filler")).expect("it is there");
    }

    fn make_read_only(&self) {
        rustix::mount::mount_remount(&self.path, MountFlags::RDONLY, c"").expect("root may");
    }

    fn make_writable(&self) {
        rustix::mount::mount_remount(&self.path, MountFlags::empty(), c"").expect("root may");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process of a failed test may still hold a file.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// A small ext4 of a test's own on a loop device, there while this lives: real blocks, which run out, and real failures.
struct LoopDisk {
    path: PathBuf,
    image: PathBuf,
    folder: tempfile::TempDir,
}

impl LoopDisk {
    /// Makes and mounts one, or says why not: it takes root, the tools, and a kernel with loop devices.
    #[expect(clippy::print_stdout, reason = "a test that was skipped says so")]
    fn mount() -> Option<Self> {
        let folder = tempfile::TempDir::with_prefix("longhand-loop-").expect("a temporary folder");
        let disk = Self { path: folder.path().join("mnt"), image: folder.path().join("image"), folder };
        fs::create_dir(&disk.path).expect("a folder");
        fs::write(&disk.image, vec![0; 16 << 20]).expect("room for an image");
        let image = disk.image.to_str().expect("UTF-8");
        match run("mkfs.ext4", &["-q", "-F", image]).and_then(|()| disk.mount_again()) {
            Ok(()) => Some(disk),
            Err(why) => {
                println!("skipped: a loop device cannot be mounted here ({why})");
                None
            }
        }
    }

    fn mount_again(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", self.image.to_str().expect("UTF-8"), self.path.to_str().expect("UTF-8")])
    }

    /// What a kernel does whose disk failed: nothing is written any more, whoever has files open.
    fn fail(&self) {
        run("mount", &["-o", "remount,abort", self.path.to_str().expect("UTF-8")]).expect("root may");
        // Reported with the next write of its own at the latest.
        let _ = fs::write(self.path.join("probe"), "x");
    }

    /// Takes it away under those who use it.
    fn pull(&self) {
        unmount(&self.path, UnmountFlags::DETACH).expect("root may");
    }

    /// Ends it, also where it was pulled: then the device goes when nobody uses it any more.
    fn unmount(&self) {
        let _ = unmount(&self.path, UnmountFlags::empty());
        let image = self.image.to_str().expect("UTF-8");
        let is_free = || {
            let _ = unmount(&self.path, UnmountFlags::empty());
            Command::new("losetup").args(["-j", image]).output().is_ok_and(|output| output.stdout.is_empty())
        };
        assert!(wait_until(HUNG, is_free), "somebody uses it still");
    }

    /// A folder on another disk.
    fn elsewhere(&self) -> PathBuf {
        self.folder.path().join("rescued")
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let words = || format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(words()) }
}

#[track_caller]
fn sessions_can_be_read(machine: &Machine) {
    let listed = machine.json(&["sessions", "list", "--json"]);
    let id = listed[0]["id"].as_str().unwrap_or_else(|| panic!("nothing is listed: {listed}"));
    assert!(machine.json(&["sessions", "show", id, "--json"])["messages"].is_array());
    let verified = machine.json(&["sessions", "verify", id, "--json"]);
    for problem in verified[0]["problems"].as_array().unwrap_or_else(|| panic!("no report: {verified}")) {
        assert_eq!(problem["kind"], "torn_tail", "a disk that is full cuts the last write and harms nothing else: {verified}");
    }
    let elsewhere = machine.project().join("export.jsonl");
    machine.longhand(&["sessions", "export", id, "-o", elsewhere.to_str().expect("UTF-8")]).finish().assert_code(0);
    assert!(fs::metadata(elsewhere).is_ok_and(|file| file.len() > 0));
}

#[test]
fn a_full_disk_is_5_and_nothing_that_was_kept_is_lost() {
    let Some(disk) = SmallDisk::mount(c"size=1m,mode=0700") else { return };
    let machine = Machine::new([Answer::text("Hello there.")]).with_home(disk.path.join("home"));
    machine.print(&["hello"]).finish().assert_code(0);
    disk.fill();
    machine.server.follow(Script::repeating(Answer::Reply(Reply::text("word ".repeat(2_000)).paced(Duration::from_millis(2)))));
    let run = machine.print(&["-c", "go on"]).finish();
    run.assert_code(5);
    assert!(!run.stderr.is_empty() && !run.stderr.contains("panicked"), "{run:?}");
    sessions_can_be_read(&machine);
    disk.make_room();
    machine.assert_goes_on();
    assert!(machine.log().answers().starts_with("Hello there."));
}

#[test]
fn a_disk_that_fills_up_during_an_answer_stops_the_turn_soon() {
    let Some(disk) = SmallDisk::mount(c"size=256k,mode=0700") else { return };
    // A minute of answer, of which two seconds fit.
    let words = format!("{} ", "x".repeat(200)).repeat(30_000);
    let machine = Machine::new([Answer::Reply(Reply::text(words).paced(Duration::from_millis(1)))]);
    let machine = machine.with_home(disk.path.join("home"));
    let run = machine.print(&["--output-format", "json", "talk"]).finish();
    run.assert_code(5);
    assert!(run.took < Duration::from_secs(25), "it was listened to long after the disk was full: {run:?}");
    assert_eq!(run.result()["is_error"], true);
    sessions_can_be_read(&machine);
}

#[test]
fn a_home_that_cannot_be_written_is_5_and_can_be_read() {
    let Some(disk) = SmallDisk::mount(c"size=4m,mode=0700") else { return };
    let machine = Machine::new(Script::repeating(Answer::text("Hello there."))).with_home(disk.path.join("home"));
    machine.print(&["hello"]).finish().assert_code(0);
    let asked = machine.server.requests().len();
    disk.make_read_only();
    for arguments in [&["hello again"][..], &["-c", "and again"]] {
        let run = machine.print(arguments).finish();
        run.assert_code(5);
        assert!(run.stderr.contains("home") || run.stderr.contains("session"), "{run:?}");
    }
    assert_eq!(machine.server.requests().len(), asked, "nothing is asked that cannot be written down");
    sessions_can_be_read(&machine);
    disk.make_writable();
    machine.assert_goes_on();
}

#[test]
fn a_disk_that_fails_during_an_answer_ends_no_turn_where_there_is_a_rescue_folder() {
    type Fail = fn(&LoopDisk);
    let ways = [(LoopDisk::fail as Fail, false), (LoopDisk::fail as Fail, true), (LoopDisk::pull as Fail, false)];
    for (fail, is_killed) in ways {
        let Some(disk) = LoopDisk::mount() else { return };
        let words = "word ".repeat(300);
        let machine = Machine::new([Answer::Reply(Reply::text(words.as_str()).paced(Duration::from_millis(10)))]);
        let machine = machine.with_home(disk.path.join("home"));
        let rescue = disk.elsewhere();
        let rescue = rescue.to_str().expect("UTF-8");
        let mut running = machine.print(&["--rescue-dir", rescue, "--output-format", "stream-json", "talk"]).start();
        running.wait_for_output("the answer", |out| out.matches("assistant.delta").count() >= 20);
        let id = machine.session();
        let in_log = machine.log().answers().len();
        fail(&disk);
        let file = disk.elsewhere().join(format!("{id}.1.jsonl"));
        let is_rescued = || fs::read_to_string(&file).is_ok_and(|lines| lines.contains("assistant.text"));
        assert!(wait_until(HUNG, is_rescued), "{}", running.stderr());
        assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert!(wait_until(HUNG, || running.stderr().contains(rescue)), "it is told at once: {}", running.stderr());
        if is_killed {
            running.signal(rustix::process::Signal::KILL);
            let _ = running.finish();
        } else {
            let run = running.finish();
            run.assert_code(0);
            assert!(run.stderr.contains(rescue), "where it is kept is told: {run:?}");
        }
        let doctor = machine.json(&["doctor", "--json", "--rescue-dir", rescue]);
        assert_eq!(doctor["rescue"]["files"].as_array().map(Vec::len), Some(1), "{doctor}");

        disk.unmount();
        // Not the folder that it is mounted on: that is another disk's.
        assert_eq!(fs::read_dir(&disk.path).expect("it is there").count(), 0, "nothing was made in the place of the home");
        disk.mount_again().expect("it could be mounted before");
        machine.server.follow([Answer::text("Going on.")]);
        let run = machine.print(&["--rescue-dir", rescue, "-r", &id, "go on"]).finish();
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Going on.\n"), "{run:?}");
        assert!(!file.exists(), "the log has it");
        machine.assert_sessions_are_well();
        let answers = machine.log().answers();
        if is_killed {
            assert!(answers.len() > in_log, "more than what the disk had: {answers}");
        } else {
            assert_eq!(answers, format!("{words}Going on."));
        }
    }
}

#[test]
fn blocks_that_run_out_are_5_and_all_is_well_when_there_is_room() {
    let Some(disk) = LoopDisk::mount() else { return };
    let machine = Machine::new([Answer::text("Hello there.")]).with_home(disk.path.join("home"));
    machine.print(&["hello"]).finish().assert_code(0);
    let filler = disk.path.join("filler");
    let mut file = fs::File::create(&filler).expect("there is room for a name");
    while file.write_all(&[b'x'; 1024]).is_ok() {}
    drop(file);
    machine.server.follow(Script::repeating(Answer::Reply(Reply::text("word ".repeat(2_000)).paced(Duration::from_millis(2)))));
    let run = machine.print(&["-c", "go on"]).finish();
    run.assert_code(5);
    sessions_can_be_read(&machine);
    fs::remove_file(filler).expect("it is there");
    machine.assert_goes_on();
}

#[test]
fn a_home_that_is_a_file_is_5() {
    let machine = Machine::new(Script::repeating(Answer::text("Hello.")));
    fs::write(machine.home(), "not a folder").expect("a file");
    let run = machine.print(&["hello"]).finish();
    run.assert_code(5);
    assert!(machine.server.requests().is_empty());
}

#[test]
fn sessions_are_nobody_elses_business() {
    let machine = Machine::new([Answer::text("Hello.")]);
    machine.print(&["hello"]).finish().assert_code(0);
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    let file = machine.session_file();
    assert_eq!(Permissions::from_mode(mode(&file)), Permissions::from_mode(0o600));
    for folder in file.ancestors().skip(1).take_while(|folder| folder.starts_with(machine.home())) {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
}
