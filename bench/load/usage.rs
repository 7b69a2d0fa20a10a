//! What a node used between two moments: CPU per stage, bytes written, memory.
//!
//! ```text
//! GET /metrics (tiles with their threads, counters) + /proc/PID (CPU per thread) -> Sample
//! later Sample - earlier Sample -> Usage
//! ```
//!
//! The kernel knows the CPU time of threads, the node knows which tiles a thread runs and how long
//! each was busy. Where tiles share a thread, its CPU time is divided in proportion to their busy
//! times.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Serialize;

/// Bytes of one answer to a metrics request.
const METRICS_SIZE_MAX: u64 = 4 << 20;

/// How long the node may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// The kernel keeps this many bytes of a thread's name.
const THREAD_NAME_SIZE_MAX: usize = 15;

/// Name of the stage that gathers the CPU time of threads without tiles.
pub const STAGE_OTHER: &str = "other";

/// Name of the stage whose tiles verify signatures.
pub const STAGE_VERIFY: &str = "verify";

/// Why a node's usage is not known.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The node's metrics could not be fetched.
    #[error("metrics of {address}: {cause}")]
    Fetch {
        /// Where.
        address: SocketAddr,
        /// What went wrong.
        cause: io::Error,
    },
    /// The node answered, but not with metrics.
    #[error("metrics of {address}: answered \"{status}\"")]
    Status {
        /// Where.
        address: SocketAddr,
        /// First line of the answer.
        status: String,
    },
    /// The kernel says nothing of this process.
    #[error("process {pid}: {cause}")]
    Process {
        /// Which process.
        pid: u32,
        /// What the operating system said.
        cause: io::Error,
    },
}

/// Counters of a node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// By tile and thread: nanoseconds busy.
    tiles: BTreeMap<(String, String), u64>,
    /// By thread: nanoseconds of CPU.
    threads: BTreeMap<String, u64>,
    /// Metrics without labels, by name.
    plain: BTreeMap<String, u64>,
    /// Bytes the process had the block devices write.
    disk_bytes: Option<u64>,
}

impl Sample {
    /// Takes a sample of the node whose admin plane is at `admin` and, if its process is on this
    /// machine, of `pid`.
    ///
    /// # Errors
    /// [`UsageError`] naming the source that failed.
    pub fn take(admin: SocketAddr, pid: Option<u32>) -> Result<Self, UsageError> {
        let mut sample = Self::parse(&fetch(admin, "/metrics")?);
        if let Some(pid) = pid {
            sample.read_process(pid).map_err(|cause| UsageError::Process { pid, cause })?;
        }
        Ok(sample)
    }

    /// Reads metrics text; lines that are of no use here are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut sample = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<u64>() else { continue };
            match name.split_once('{') {
                None => {
                    sample.plain.insert(name.to_owned(), value);
                }
                Some(("hufu_tile_busy_nanoseconds_total", labels)) => {
                    let tile = label(labels, "tile").unwrap_or_default();
                    let thread = label(labels, "thread").unwrap_or_default();
                    sample.tiles.insert((tile.to_owned(), kernel_name(thread)), value);
                }
                Some(_) => {}
            }
        }
        sample
    }

    fn read_process(&mut self, pid: u32) -> io::Result<()> {
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let folder = entry?.path();
            // A thread may end between the listing and the reading.
            let Ok(name) = fs::read_to_string(folder.join("comm")) else { continue };
            let Ok(times) = fs::read_to_string(folder.join("schedstat")) else { continue };
            let nanos = times.split_whitespace().next().and_then(|text| text.parse().ok());
            *self.threads.entry(name.trim_end().to_owned()).or_default() += nanos.unwrap_or(0);
        }
        let counters = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let written = counters.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        self.disk_bytes = written.and_then(|text| text.parse().ok());
        Ok(())
    }

    /// Signatures of transactions that the node has verified since its start.
    #[must_use]
    pub fn signatures_verified(&self) -> u64 {
        self.plain("hufu_verify_signatures_checked_total")
    }

    /// Height of the last block that the node has executed.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.plain("hufu_chain_height")
    }

    /// Transactions that the node has executed since its start.
    #[must_use]
    pub fn transactions_executed(&self) -> u64 {
        self.plain("hufu_execute_transactions_executed_total")
    }

    /// Heights that the node has taken over from peers since its start.
    #[must_use]
    pub fn heights_caught_up(&self) -> u64 {
        self.plain("hufu_consensus_heights_caught_up_total")
    }

    /// Consensus signatures that the node has made since its start.
    #[must_use]
    pub fn signatures_made(&self) -> u64 {
        self.plain("hufu_sign_signatures_made_total")
    }

    /// Consensus signatures that the node's card did not give when it was asked.
    #[must_use]
    pub fn signatures_failed(&self) -> u64 {
        self.plain("hufu_sign_attempts_failed_total")
    }

    fn plain(&self, name: &str) -> u64 {
        self.plain.get(name).copied().unwrap_or(0)
    }
}

/// CPU time of one stage: all tiles of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Name of the kind of tile.
    pub stage: String,
    /// Nanoseconds of CPU; of busy time where the kernel's figures are not to be had.
    pub cpu_nanos: u64,
}

/// What a node used between two samples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Nanoseconds of CPU of the whole process.
    pub cpu_nanos: u64,
    /// By stage; together they are the whole process where the kernel's figures are there.
    pub stages: Vec<Stage>,
    /// Bytes written to the block log, padding included.
    pub log_bytes: u64,
    /// Groups of the block log made durable.
    pub log_groups: u64,
    /// Bytes the process had the block devices write, state store included; `None` where the kernel
    /// does not say.
    pub disk_bytes: Option<u64>,
    /// Blocks decided.
    pub blocks: u64,
    /// Resident memory at the end.
    pub resident_bytes: u64,
}

impl Usage {
    /// What was used from `earlier` to `later`; a node that was started again in between counts
    /// from its start.
    #[must_use]
    pub fn between(earlier: &Sample, later: &Sample) -> Self {
        let grown = |name: &str| {
            let (before, after) = (earlier.plain(name), later.plain(name));
            after.checked_sub(before).unwrap_or(after)
        };
        let disk_bytes = later
            .disk_bytes
            .map(|after| after.checked_sub(earlier.disk_bytes.unwrap_or(0)).unwrap_or(after));
        Self {
            cpu_nanos: grown("hufu_process_cpu_nanoseconds_total"),
            stages: stages(earlier, later),
            log_bytes: grown("hufu_log_bytes_written_total"),
            log_groups: grown("hufu_log_groups_synced_total"),
            disk_bytes,
            blocks: grown("hufu_consensus_blocks_decided_total"),
            resident_bytes: later.plain("hufu_process_resident_bytes"),
        }
    }

    /// CPU time of the verify stage.
    #[must_use]
    pub fn verify_nanos(&self) -> u64 {
        self.stage_nanos(STAGE_VERIFY)
    }

    /// CPU time of a stage.
    #[must_use]
    pub fn stage_nanos(&self, name: &str) -> u64 {
        let stage = self.stages.iter().find(|stage| stage.stage == name);
        stage.map_or(0, |stage| stage.cpu_nanos)
    }

    /// Adds what was used in another span of time.
    pub fn add(&mut self, other: &Self) {
        self.cpu_nanos += other.cpu_nanos;
        for stage in &other.stages {
            match self.stages.iter_mut().find(|mine| mine.stage == stage.stage) {
                Some(mine) => mine.cpu_nanos += stage.cpu_nanos,
                None => self.stages.push(stage.clone()),
            }
        }
        self.stages.sort_by_key(|stage| core::cmp::Reverse(stage.cpu_nanos));
        self.log_bytes += other.log_bytes;
        self.log_groups += other.log_groups;
        self.blocks += other.blocks;
        self.disk_bytes = match (self.disk_bytes, other.disk_bytes) {
            (Some(mine), Some(others)) => Some(mine + others),
            (mine, others) => mine.or(others),
        };
        self.resident_bytes = self.resident_bytes.max(other.resident_bytes);
    }
}

fn stages(earlier: &Sample, later: &Sample) -> Vec<Stage> {
    let grown = |before: Option<&u64>, after: u64| {
        after.checked_sub(before.copied().unwrap_or(0)).unwrap_or(after)
    };
    let mut totals: BTreeMap<String, u64> = BTreeMap::new();
    let mut busy_by_thread: BTreeMap<&str, Vec<(&str, u64)>> = BTreeMap::new();
    for (key, after) in &later.tiles {
        let busy = grown(earlier.tiles.get(key), *after);
        busy_by_thread.entry(&key.1).or_default().push((stage_of(&key.0), busy));
    }
    for (thread, tiles) in &busy_by_thread {
        let busy_total: u64 = tiles.iter().map(|(_, busy)| busy).sum();
        let cpu =
            later.threads.get(*thread).map(|after| grown(earlier.threads.get(*thread), *after));
        for (stage, busy) in tiles {
            let share = cpu.map_or(*busy, |cpu| share_of(cpu, *busy, busy_total));
            *totals.entry((*stage).to_owned()).or_default() += share;
        }
    }
    let other: u64 = later
        .threads
        .iter()
        .filter(|(thread, _)| !busy_by_thread.contains_key(thread.as_str()))
        .map(|(thread, after)| grown(earlier.threads.get(thread), *after))
        .sum();
    if other > 0 {
        *totals.entry(STAGE_OTHER.to_owned()).or_default() += other;
    }
    let mut stages: Vec<Stage> =
        totals.into_iter().map(|(stage, cpu_nanos)| Stage { stage, cpu_nanos }).collect();
    stages.sort_by_key(|stage| core::cmp::Reverse(stage.cpu_nanos));
    stages
}

/// `part` of `whole` as a share of `total`; 0 where nothing was busy.
fn share_of(total: u64, part: u64, whole: u64) -> u64 {
    let product = u128::from(total) * u128::from(part);
    product.checked_div(u128::from(whole)).and_then(|share| u64::try_from(share).ok()).unwrap_or(0)
}

/// Tiles of one kind are numbered: `verify-0` and `verify-1` are of the stage `verify`.
fn stage_of(tile: &str) -> &str {
    tile.trim_end_matches(|end: char| !end.is_alphabetic())
}

fn kernel_name(thread: &str) -> String {
    let mut end = thread.len().min(THREAD_NAME_SIZE_MAX);
    while !thread.is_char_boundary(end) {
        end -= 1;
    }
    thread.get(..end).unwrap_or(thread).to_owned()
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.trim_end_matches('}').split(',').find_map(|part| {
        let (key, value) = part.split_once('=')?;
        (key == name).then(|| value.trim_matches('"'))
    })
}

/// What a node's admin side answers for this path, as text: its metrics for `/metrics`.
///
/// # Errors
/// [`UsageError::Fetch`] or [`UsageError::Status`].
pub fn fetch(address: SocketAddr, path: &str) -> Result<String, UsageError> {
    let failed = |cause| UsageError::Fetch { address, cause };
    let answer = request(address, path).map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(UsageError::Status { address, status: status.to_owned() })
    }
}

/// HTTP 1.0 has no chunks and the server closes at the end: the answer is all there is to read.
fn request(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WAIT)?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.set_write_timeout(Some(ANSWER_WAIT))?;
    let host = address.ip();
    stream.write_all(
        format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.take(METRICS_SIZE_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests;
