//! A disk without room: the node says so and ends; with room again it goes on with everything.

use std::fs::{self, File};
use std::io::Write;

use hufu_network::client::{Client, TransactionResult};
use hufu_network::message::WaitFor;
use hufu_types::{Digest, Operation, Receipt, Transaction, TransactionBuilder};

use crate::chain::{Chain, VALIDITY_HEIGHTS, person};
use crate::disk::{SmallDisk, unavailable};

const MIB: u64 = 1 << 20;

/// Room the node finds when the disk has been filled: its present segments and not one more.
const ROOM_BYTES: u64 = 10 * MIB;

/// Transactions of one round, and operations of each: about 480 KiB of log.
const ROUND_COUNT: u64 = 8;
const OPERATIONS_COUNT: u64 = 200;

/// Rounds after which a disk of this size must have been full.
const ROUNDS_MAX: u64 = 400;

fn heavy(chain: &Chain, nonce: u64, valid_until: u64) -> Transaction {
    let one = person(1);
    let builder = TransactionBuilder::new(chain.id(), one.key(), nonce, valid_until);
    let digest = Digest([5; 32]);
    let memo = [nonce.to_le_bytes()[0]; 256];
    let notarise = Operation::Notarise { digest: &digest, memo: &memo };
    one.sign((0..OPERATIONS_COUNT).fold(builder, |builder, _| builder.operation(notarise)))
}

/// Submits until the node is gone; returns every receipt that came.
fn load_until_the_end(chain: &Chain, mut client: Client) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    let mut height = client.status().unwrap().height;
    for round in 0..ROUNDS_MAX {
        let nonces = round * ROUND_COUNT..(round + 1) * ROUND_COUNT;
        let until = height + VALIDITY_HEIGHTS;
        let made: Vec<_> = nonces.map(|nonce| heavy(chain, nonce, until)).collect();
        let Ok(results) = client.submit(&made, WaitFor::Committed, false) else { return receipts };
        for result in results {
            match result {
                TransactionResult::Receipt { receipt, .. } => {
                    assert_eq!(receipt.outcome().unwrap(), Ok(()));
                    height = receipt.height.get();
                    receipts.push(receipt);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    panic!("the disk is not full after {ROUNDS_MAX} rounds");
}

fn free_bytes(folder: &std::path::Path) -> u64 {
    let output = std::process::Command::new("df")
        .args(["--output=avail", "-B1"])
        .arg(folder)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().nth(1).unwrap().trim().parse().unwrap()
}

#[test]
fn a_full_disk_is_named_and_survived() {
    if let Some(reason) = unavailable() {
        eprintln!("skipped: {reason}");
        return;
    }
    let disk = SmallDisk::new(160);
    let chain = Chain::new("full");
    let mut node = chain.node_in(&disk.path().join("data"), "[log]\nsegment_bytes = 16777216");
    node.start_ready();
    let mut client = chain.connect(&node);
    chain.open_market(&mut client);
    let ballast = disk.path().join("ballast");
    let mut file = File::create(&ballast).unwrap();
    let zeroes = vec![0; 1 << 20];
    while free_bytes(&disk.path()) > ROOM_BYTES {
        file.write_all(&zeroes).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let receipts = load_until_the_end(&chain, client);
    let status = node.wait_end();
    assert!(!status.success(), "a node without room has ended with {status}");
    assert!(node.log().contains("disk full"), "the end of the node does not name its reason");
    assert!(!receipts.is_empty(), "the disk was full from the beginning");

    // Without room it does not start either, or it starts and keeps what it has.
    fs::remove_file(&ballast).unwrap();
    node.start_ready();
    let mut client = chain.connect(&node);
    for receipt in &receipts {
        assert_eq!(client.transaction(receipt.id, false).unwrap().receipt, *receipt);
    }
    let until = client.status().unwrap().height + VALIDITY_HEIGHTS;
    let receipt = crate::chain::commit(&mut client, &heavy(&chain, u64::MAX / 2, until));
    assert_eq!(receipt.outcome().unwrap(), Ok(()));
    node.stop();
    println!("{} receipts before the disk was full", receipts.len());
}
