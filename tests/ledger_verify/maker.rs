//! Makes the chain: what the tiles of a node do, one after the other and without sockets.

use super::*;

/// The lowest byte of a number.
fn low(number: u64) -> u8 {
    number.to_le_bytes()[0]
}

/// Stands in for the tiles of a node with one validator.
pub(super) struct Maker {
    signer: SoftwareSigner,
    pub(super) address: Address,
    pub(super) genesis: Genesis,
    pub(super) provider: Provider,
    pub(super) recovered: Recovered,
    chain: Chain,
    crooked: Crooked,
    replay_from: Option<RecordPosition>,
    /// The first batch of the height before.
    earlier: Option<Batch>,
    _folder: DataDir,
}

impl Maker {
    pub(super) fn open(path: &Path, crooked: Crooked) -> Self {
        let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
        let (genesis, provider) = (genesis(&signer), software_provider());
        let address = signer.public_key().address();
        let identity = Identity { chain: genesis.chain_id().0, node: address };
        let folder = DataDir::open(path, &identity).unwrap();
        genesis_copy::keep(path, &genesis).unwrap();
        let options = small(path, &genesis, &provider).with_keys(keys(crooked.plain));
        let metrics = Arc::new(Metrics::default());
        let recovered = recover(&genesis, &provider, &metrics, options, &mut |_| true).unwrap();
        let roots = recovered.executor.recent_roots().to_vec();
        let (set, ordered) = (genesis.validators.clone(), recovered.ordered.clone());
        let chain = Chain::new(genesis.chain_id(), 1, set, recovered.tip, roots, ordered);
        Self {
            signer,
            address,
            genesis,
            provider,
            recovered,
            chain,
            crooked,
            replay_from: None,
            earlier: None,
            _folder: folder,
        }
    }

    pub(super) fn make(mut self) {
        if self.crooked.stray_batch {
            let batch = self.batches(HEIGHTS + 1).remove(0);
            self.replay_from = Some(self.append(RECORD_BATCH, batch.bytes()));
        }
        if self.crooked.expired_batch {
            let batch = self.batch(1 << 40, vec![self.transaction(1, 40)]);
            self.append(RECORD_BATCH, batch.bytes());
        }
        for height in 1..=HEIGHTS {
            // An empty block now and then, as an idle chain makes them.
            let mut batches = if height == 5 { Vec::new() } else { self.batches(height) };
            let earlier = core::mem::replace(&mut self.earlier, batches.first().cloned());
            if self.crooked.repeated_batch && height == HEIGHTS {
                batches.extend(earlier);
            }
            self.block(height, batches);
        }
        let Recovered { executor, log, vote_log, .. } = self.recovered;
        executor.store().flush().unwrap();
        if !self.crooked.killed {
            log.close().unwrap();
            vote_log.close().unwrap();
        }
    }

    fn batches(&self, height: u64) -> Vec<Batch> {
        let hasher = &*self.provider.hasher;
        let mut batches = Vec::new();
        for part in 0..2 {
            let transactions = (0..6).map(|number| self.transaction(height, part * 6 + number));
            batches.push(self.batch(height * 2 + part, transactions.collect()));
        }
        let copied = match (self.crooked.late_copy, self.crooked.early_copy) {
            _ if height < HEIGHTS => None,
            (true, _) => Some(2),
            (_, true) => Some(HEIGHTS - 1),
            _ => None,
        };
        if let Some(copied) = copied {
            let mut again: Vec<_> = (0..6).map(|number| self.transaction(copied, number)).collect();
            if !self.crooked.passed_batch {
                // As long as one of a batch is valid, a block may order the batch.
                again.push(self.transaction(height, 40));
            }
            batches.push(self.batch(height * 2 + 2, again));
        }
        if self.crooked.transaction_signature && height == 3 {
            let mut bytes = batches[1].bytes().to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            batches[1] = Batch::parse(bytes.into(), hasher).unwrap();
        }
        batches
    }

    fn batch(&self, sequence: u64, transactions: Vec<Transaction>) -> Batch {
        let chain = self.genesis.chain_id();
        let mut builder = BatchBuilder::new(chain, self.address);
        let checked = verify_transactions(&self.provider, chain, transactions);
        checked.iter().for_each(|one| builder.push(one.as_ref().unwrap()));
        builder.seal(sequence, &*self.provider.hasher)
    }

    /// Opens accounts and creates an asset at height 1, issues it at height 2, then moves it.
    pub(super) fn transaction(&self, height: u64, number: u64) -> Transaction {
        let account = |number: u64| AccountBody { address: Address([low(number) + 1; 20]) };
        let asset = AssetCode::new("BOND").unwrap();
        let (one, other) = (account(number), account((number + 1) % 12));
        let create = CreateAssetBody::new(asset, self.address, 2, 1 << 40);
        let supply = SupplyBody { asset, account: one.address, amount: 1_000.into() };
        let leg = Leg { asset, from: self.address, to: other.address, amount: 1.into() };
        let digest = Digest([low(number); 32]);
        let notarise = Operation::Notarise { digest: &digest, memo: &[low(height); 200] };
        let until = height + if self.crooked.ground { HEIGHTS } else { VALID_HEIGHTS } - 1;
        let key = *self.signer.public_key();
        let nonce = self.nonce(height << 8 | number);
        let builder = TransactionBuilder::new(self.genesis.chain_id(), key, nonce, until);
        let builder = match (height, number) {
            (1, 0) => builder
                .operation(Operation::CreateAsset(&create))
                .operation(Operation::OpenAccount(&one)),
            (1, _) => builder.operation(Operation::OpenAccount(&one)),
            (2, _) => builder.operation(Operation::IssueAsset(&supply)),
            // Fails, because the sender holds nothing: failures have receipts too.
            (_, 3) => builder.operation(Operation::Transfer(&leg)),
            _ => builder.operation(notarise),
        };
        let unsigned = builder.unsigned();
        let signature =
            self.signer.sign(&TransactionBuilder::signing_digest(&unsigned, &key)).unwrap();
        TransactionBuilder::join(unsigned, &signature).unwrap()
    }

    /// A nonce of its own for each number.
    fn nonce(&self, number: u64) -> u64 {
        if !self.crooked.ground {
            return number;
        }
        let is_ground = |nonce: &u64| {
            let key = StateKey::Nonce { sender: self.address, nonce: *nonce };
            let hasher = &*self.provider.hasher;
            let hashed = row_entries(self.genesis.chain_id(), &[(key, [])], hasher);
            bucket_of(&hashed[0].key, BUCKETS_LOG2) == 0
        };
        (number << 20..(number + 1) << 20).find(is_ground).unwrap()
    }

    pub(super) fn append(&mut self, kind: u16, payload: &[u8]) -> RecordPosition {
        let log: &mut BlockLog = &mut self.recovered.log;
        loop {
            match log.append(kind, &[payload]).unwrap() {
                Appended::Placed(position) => return position,
                Appended::Full => drop(log.flush().unwrap()),
            }
        }
    }

    fn block(&mut self, height: u64, batches: Vec<Batch>) {
        let mut bodies = Vec::new();
        for batch in &batches {
            bodies.push(self.append(RECORD_BATCH, batch.bytes()));
            self.recovered.log.flush().unwrap();
        }
        let digests: Vec<_> = batches.iter().map(Batch::digest).collect();
        let hasher: &dyn Hasher = &*self.provider.hasher;
        let count: u32 = batches.iter().map(|batch| length_u32(batch.entries())).sum();
        let clock = 5_000 + height;
        let header = self.chain.build(self.address, &digests, count, clock, hasher).unwrap();
        let block = Block::new(header, digests, hasher).unwrap();
        let certificate = self.vote(&block);
        let payload = block_record(&block, &certificate);
        let position = self.append(RECORD_BLOCK, &payload);
        self.recovered.log.flush().unwrap();
        self.chain.decided(&block, clock).unwrap();
        let decided = DecidedBlock { block, certificate, batches };
        let replay_from = self.replay_from.unwrap_or(position);
        let durable = DurableBlock { decided, position, bodies, replay_from };
        let executed = self.recovered.executor.execute(durable, &mut Inline).unwrap();
        self.chain.executed(executed.roots).unwrap();
        if self.crooked.unsealed {
            return;
        }
        let log_sequence = self.recovered.log.durable().get();
        self.recovered.vote_log.seal(Seal { height, log_sequence }).unwrap();
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.signer.sign(&vote::signing_digest(message, self.signer.public_key())).unwrap()
    }

    fn remember(&mut self, record: &Record) {
        self.recovered.vote_log.append(1, &record.to_bytes()).unwrap();
        self.recovered.vote_log.sync().unwrap();
    }

    /// Proposal, prevote, precommit and decision, each on record before it is used.
    fn vote(&mut self, block: &Block) -> CommitCertificate {
        let (chain, height, digest) = (self.genesis.chain_id(), block.height(), block.digest());
        let proposal = Proposal::new(chain, height, 0, digest, None, self.address);
        self.remember(&Record::SignIntent(SignIntent::Proposal(proposal)));
        let entry = hufu_consensus::vote_log::BlockEntry {
            round: 0,
            proposer: self.address,
            synced: false,
            verdict: BlockVerdict::Valid(block.clone()),
        };
        self.remember(&Record::Block { height, entry });
        let signature = self.sign(proposal.as_bytes());
        self.remember(&Record::OwnProposal(SignedProposal { proposal, signature }));
        let mut last = Signature([0; 64]);
        for step in [VoteStep::Prevote, VoteStep::Precommit] {
            let vote = Vote::new(chain, step, height, 0, Some(digest), self.address);
            self.remember(&Record::SignIntent(SignIntent::Vote(vote)));
            last = self.sign(vote.as_bytes());
            self.remember(&Record::OwnVote(SignedVote { vote, signature: last }));
        }
        if self.crooked.second_vote && height == 4 {
            let vote = Vote::new(chain, VoteStep::Precommit, height, 0, None, self.address);
            self.remember(&Record::SignIntent(SignIntent::Vote(vote)));
        }
        if self.crooked.certificate_signature && height == 6 {
            last.0[40] ^= 4;
        }
        let signatures = vec![CommitSignature { validator: self.address, signature: last }];
        let certificate = CommitCertificate { height, round: 0, block: digest, signatures };
        self.remember(&Record::Decided(certificate.clone()));
        certificate
    }
}
