//! Disks that tests may fill, cut off and take away: loop devices with ext4, for root only.
//!
//! ```text
//! node -> data folder on INNER ext4 -> loop device -> inner.img on OUTER ext4 -> loop -> outer.img
//!                                                      |  page cache of the outer file system:
//!                                                      |  the volatile cache of the inner disk
//! ```
//!
//! A single loop device keeps what was written with O_DIRECT even when it was never synced. Here
//! the inner device has a cache that a power cut empties: only what a flush of the inner file
//! system has pushed through (an fsync of `inner.img`) is on the outer disk. `EXT4_IOC_SHUTDOWN` on
//! the outer file system, without a flush of its journal, is the power cut.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, for one disk after the other without a
/// pause. Perl is part of every Debian, and tests hold no unsafe code.
const SHUTDOWN: &str = "my @files = map { open(my $file, '<', $_) or die \"open: $!\"; $file } @ARGV; \
                        my $how = pack('I', 2); for my $file (@files) { \
                        ioctl($file, 0x8004587d, $how) or die \"EXT4_IOC_SHUTDOWN: $!\"; }";

const MIB: u64 = 1 << 20;

/// Why this host cannot lend a disk, if it cannot.
pub(crate) fn unavailable() -> Option<String> {
    let user = Command::new("id").arg("-u").output();
    if !user.is_ok_and(|output| output.stdout == b"0\n") {
        return Some("loop devices need root".to_owned());
    }
    for tool in ["losetup", "mkfs.ext4", "mount", "umount", "perl"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
        if !found.is_ok_and(|output| output.status.success()) {
            return Some(format!("{tool} is not installed"));
        }
    }
    let free = Command::new("losetup").arg("-f").output();
    match free {
        Ok(output) if output.status.success() => None,
        _ => Some("this host has no loop devices".to_owned()),
    }
}

/// Runs a tool that must succeed; returns what it printed.
fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An image attached to a loop device and mounted; taken down when dropped.
struct Mounted {
    device: String,
    point: PathBuf,
}

impl Mounted {
    fn new(image: &Path, point: &Path) -> Self {
        fs::create_dir_all(point).unwrap();
        let device = run("losetup", &["-f", "--show", "--direct-io=off", text(image)]);
        // From here on a panic takes the device down.
        let mounted = Self { device, point: point.to_owned() };
        run("mount", &["-t", "ext4", "-o", "noatime", &mounted.device, text(point)]);
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A file system that is still in use leaves the tree now and ends with its last user.
        let unmounted = Command::new("umount").arg(&self.point).stderr(Stdio::null()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            drop(Command::new("umount").arg("-l").arg(&self.point).stderr(Stdio::null()).status());
        }
        drop(Command::new("losetup").args(["-d", &self.device]).stderr(Stdio::null()).status());
    }
}

/// Makes an image of this size with an empty ext4 on it. It takes room on the disk below when it is
/// written: `mkfs` would give back what was written before.
fn make_image(path: &Path, size_mib: u64) {
    File::create(path).unwrap().set_len(size_mib * MIB).unwrap();
    run("mkfs.ext4", &["-q", "-F", "-m", "0", text(path)]);
    File::open(path).unwrap().sync_all().unwrap();
}

/// A small disk that can be filled.
pub(crate) struct SmallDisk {
    // Before the folder it lies in, so that it is taken down first.
    _mounted: Mounted,
    folder: TempDir,
}

impl SmallDisk {
    pub(crate) fn new(size_mib: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("hufu-disk-").tempdir().unwrap();
        let image = folder.path().join("small.img");
        make_image(&image, size_mib);
        let mounted = Mounted::new(&image, &folder.path().join("small"));
        Self { _mounted: mounted, folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("small")
    }
}

/// A disk with a volatile cache, whose power can be cut.
pub(crate) struct VolatileDisk {
    // In this order: the inner file system lies on the outer one.
    inner: Option<Mounted>,
    outer: Option<Mounted>,
    folder: TempDir,
}

impl VolatileDisk {
    pub(crate) fn new(size_mib: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("hufu-power-").tempdir().unwrap();
        let mut disk = Self { inner: None, outer: None, folder };
        // The outer disk has room for its journal and tables beside the inner image.
        make_image(&disk.folder.path().join("outer.img"), size_mib + size_mib / 8 + 32);
        disk.outer = Some(disk.mount_outer());
        disk.make_inner(size_mib);
        disk
    }

    fn make_inner(&mut self, size_mib: u64) {
        make_image(&self.inner_image(), size_mib);
        run("sync", &["-f", text(&self.folder.path().join("outer"))]);
        self.inner = Some(self.mount_inner());
    }

    /// Where the node keeps its data.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("inner")
    }

    /// Cuts the power: what the outer disk does not hold by now is lost.
    pub(crate) fn cut(&self) {
        Self::cut_all(std::slice::from_ref(self));
    }

    /// Cuts the power of all of them at once.
    pub(crate) fn cut_all(disks: &[Self]) {
        let images: Vec<PathBuf> = disks.iter().map(Self::inner_image).collect();
        let images = images.iter().map(|image| text(image));
        run("perl", &["-e", SHUTDOWN].into_iter().chain(images).collect::<Vec<&str>>());
    }

    /// Turns the power on again. Nothing may use the disk.
    pub(crate) fn restore(&mut self) {
        self.inner = None;
        self.outer = None;
        self.outer = Some(self.mount_outer());
        self.inner = Some(self.mount_inner());
    }

    /// Puts an empty disk of this size in its place. Nothing may use it.
    pub(crate) fn replace(&mut self, size_mib: u64) {
        self.inner = None;
        self.make_inner(size_mib);
    }

    fn inner_image(&self) -> PathBuf {
        self.folder.path().join("outer").join("inner.img")
    }

    fn mount_outer(&self) -> Mounted {
        let image = self.folder.path().join("outer.img");
        Mounted::new(&image, &self.folder.path().join("outer"))
    }

    fn mount_inner(&self) -> Mounted {
        Mounted::new(&self.inner_image(), &self.path())
    }
}

#[test]
fn the_volatile_disk_loses_what_was_not_synced_and_nothing_else() {
    if let Some(reason) = unavailable() {
        eprintln!("skipped: {reason}");
        return;
    }
    let mut disk = VolatileDisk::new(48);
    let (kept, lost) = (disk.path().join("kept"), disk.path().join("lost"));
    let mut file = File::create(&kept).unwrap();
    file.write_all(&[1; 65_536]).unwrap();
    file.sync_all().unwrap();
    fs::write(&lost, [2; 65_536]).unwrap();
    disk.cut();
    drop(file);
    disk.restore();
    assert_eq!(fs::read(&kept).unwrap(), [1; 65_536]);
    let is_whole = fs::read(&lost).is_ok_and(|bytes| bytes == [2; 65_536]);
    assert!(!is_whole, "what was not synced has survived: this disk has no volatile cache");
}
