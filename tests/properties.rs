//! Properties of the canonical encodings: what is written is read back, nothing has two encodings,
//! every digest and proof covers every bit, and no bytes from outside panic a decoder.

#[cfg(test)]
mod properties {
    use std::ops::Range;
    use std::sync::Arc;

    use hufu_crypto::{Address, Digest, Signature, software_provider};
    use hufu_ledger::{
        AccountProof, AccountProofError, Holding, ProvenAccount, StateKey, StateValue,
    };
    use hufu_tests::accounts::{self, Accounts};
    use hufu_tests::examples::{self, Chain};
    use hufu_tests::seed::{Choices, cases};
    use hufu_types::codec::Reader;
    use hufu_types::operation::{
        AccountBody, CreateAssetBody, GrantMandateBody, HoldingBody, RevokeMandateBody, SupplyBody,
    };
    use hufu_types::transaction::SUITE_SM2_SM3;
    use hufu_types::{
        AssetCode, Batch, Block, CertificateError, ChainId, CommitCertificate, Genesis, Leg,
        Operation, ProofError, Receipt, ReceiptProof, SignedProposal, SignedVote, Strength,
        TransactionBuilder, TransactionView, Vote,
    };
    use zerocopy::IntoBytes as _;
    use zerocopy::little_endian::{U64, U128};

    /// Reads the bytes as one kind of message and writes what was understood; `None` if refused.
    type Recode = fn(&[u8]) -> Option<Vec<u8>>;

    /// Every decoder of the crate `types`, and that of the ledger's account proofs. Writing goes by
    /// the values, not by the bytes that were read.
    const DECODERS: &[(&str, Recode)] = &[
        ("transaction", recode_transaction),
        ("batch", recode_batch),
        ("block", |bytes| {
            let mut out = Vec::new();
            Block::parse(bytes, &*software_provider().hasher).ok()?.write(&mut out);
            Some(out)
        }),
        ("certificate", |bytes| {
            let mut reader = Reader::new(bytes);
            let mut out = Vec::new();
            CommitCertificate::read(&mut reader).ok()?.write(&mut out);
            reader.finish().ok()?;
            Some(out)
        }),
        ("genesis", |bytes| Some(Genesis::parse(bytes).ok()?.to_bytes())),
        ("signed vote", recode_vote),
        ("signed proposal", |bytes| {
            let SignedProposal { proposal, signature } = SignedProposal::parse(bytes).ok()?;
            let again = hufu_types::Proposal::new(
                proposal.prefix.chain_id,
                proposal.height.get(),
                proposal.round.get(),
                proposal.block,
                proposal.proof_of_lock_round(),
                proposal.validator,
            );
            Some(SignedProposal { proposal: again, signature }.as_bytes().to_vec())
        }),
        ("receipt proof", |bytes| {
            let mut proof = ReceiptProof::parse(bytes).ok()?;
            let Receipt { prefix, height, index, id, digest, .. } = proof.receipt;
            let (height, index) = (height.get(), index.get());
            let outcome = proof.receipt.outcome().unwrap();
            proof.receipt = Receipt::new(prefix.chain_id, height, index, id, digest, outcome);
            Some(proof.to_bytes())
        }),
        ("account proof", |bytes| Some(AccountProof::parse(bytes).ok()?.to_bytes())),
    ];

    fn recode_transaction(bytes: &[u8]) -> Option<Vec<u8>> {
        let view = TransactionView::parse(bytes).ok()?;
        let header = view.header();
        let (nonce, valid_until) = (header.nonce.get(), header.valid_until.get());
        let chain_id = header.prefix.chain_id;
        let mut builder = TransactionBuilder::new(chain_id, header.sender, nonce, valid_until);
        for operation in view.operations() {
            builder = builder.operation(operation);
        }
        let mut out = builder.unsigned();
        // The builder makes the one suite of today; which suites a chain takes is checked after
        // decoding.
        assert_eq!(out[36], SUITE_SM2_SM3);
        out[36] = header.suite;
        out.extend_from_slice(view.signature().as_bytes());
        Some(out)
    }

    fn recode_batch(bytes: &[u8]) -> Option<Vec<u8>> {
        let batch = Batch::parse(bytes.into(), &*software_provider().hasher).ok()?;
        let mut out = batch.header().as_bytes().to_vec();
        for position in 0..batch.entries().len() {
            let transaction =
                recode_transaction(batch.transaction(position).unwrap().bytes()).unwrap();
            out.extend_from_slice(&u32::try_from(transaction.len()).unwrap().to_le_bytes());
            out.extend_from_slice(&transaction);
        }
        assert!(batch.transaction(batch.entries().len()).is_none());
        Some(out)
    }

    fn recode_vote(bytes: &[u8]) -> Option<Vec<u8>> {
        let SignedVote { vote, signature } = SignedVote::parse(bytes).ok()?;
        let again = Vote::new(
            vote.prefix.chain_id,
            vote.step(),
            vote.height.get(),
            vote.round.get(),
            vote.block(),
            vote.validator,
        );
        Some(SignedVote { vote: again, signature }.as_bytes().to_vec())
    }

    /// One good message for each decoder, in the same order.
    fn messages(chain: &Chain) -> Vec<Vec<u8>> {
        let id = chain.id();
        let first = &chain.heights[0];
        let all: Vec<_> =
            examples::operations().into_iter().map(|(_, operation)| operation).collect();
        let (mut block, mut certificate) = (Vec::new(), Vec::new());
        first.block.write(&mut block);
        first.certificate.write(&mut certificate);
        vec![
            examples::transaction(id, 1, &all).bytes().to_vec(),
            first.batches[0].bytes().to_vec(),
            block,
            certificate,
            chain.genesis.to_bytes(),
            examples::precommit(id, 1, first.block.digest(), 1).as_bytes().to_vec(),
            examples::proposals(id)[1].as_bytes().to_vec(),
            chain.proof(1, 3, Strength::Certified).to_bytes(),
            Accounts::new(chain).proof(chain, accounts::PRESENT).to_bytes(),
        ]
    }

    /// The message with one bit flipped, for each of its bits.
    fn flips(message: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
        (0..message.len() * 8).map(|bit| {
            let mut flipped = message.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            (bit / 8, flipped)
        })
    }

    #[test]
    fn good_messages_are_read_by_their_own_decoder_alone() {
        let chain = Chain::new();
        for (index, message) in messages(&chain).iter().enumerate() {
            for (other, (name, recode)) in DECODERS.iter().enumerate() {
                let expected = (index == other).then(|| message.clone());
                assert_eq!(recode(message), expected, "{name} reads message {index}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_refused_or_another_canonical_message() {
        let chain = Chain::new();
        let mut accepted = 0;
        for ((name, recode), message) in DECODERS.iter().zip(messages(&chain)) {
            for (at, flipped) in flips(&message) {
                let again = recode(&flipped);
                assert!(again.as_ref().is_none_or(|again| *again == flipped), "{name}, byte {at}");
                accepted += usize::from(again.is_some());
            }
        }
        assert!(accepted > 10_000, "most flips change a value and not the form: {accepted}");
    }

    #[test]
    fn truncated_and_extended_messages_are_refused() {
        let chain = Chain::new();
        for ((name, recode), message) in DECODERS.iter().zip(messages(&chain)) {
            for end in 0..message.len() {
                assert_eq!(recode(&message[..end]), None, "{name} cut at {end}");
            }
            for tail in [&[0][..], &[1], &message] {
                assert_eq!(recode(&[&message, tail].concat()), None, "{name} with a tail");
            }
        }
    }

    /// What names a message by digest names all of its bytes.
    #[test]
    fn digests_cover_every_bit() {
        let chain = Chain::new();
        let provider = software_provider();
        let first = &chain.heights[0];
        let mut accepted = 0;
        for (at, flipped) in flips(first.batches[0].bytes()) {
            let batch = Batch::parse(Arc::from(flipped), &*provider.hasher);
            accepted += usize::from(batch.is_ok());
            let same = batch.is_ok_and(|batch| batch.digest() == first.batches[0].digest());
            assert!(!same, "byte {at} of a batch is not in its digest");
        }
        let mut bytes = Vec::new();
        first.block.write(&mut bytes);
        for (at, flipped) in flips(&bytes) {
            let block = Block::parse(&flipped, &*provider.hasher);
            accepted += usize::from(block.is_ok());
            let same = block.is_ok_and(|block| block.digest() == first.block.digest());
            assert!(!same, "byte {at} of a block is not in its digest");
        }
        for (at, flipped) in flips(&chain.genesis.to_bytes()) {
            let genesis = Genesis::parse(&flipped);
            accepted += usize::from(genesis.is_ok());
            assert!(!genesis.is_ok_and(|genesis| genesis.chain_id() == chain.id()), "byte {at}");
        }
        assert!(accepted > 1_000, "most flips change a value and not the form: {accepted}");
    }

    #[test]
    fn transactions_go_round() {
        for case in cases(400) {
            let mut choices = Choices::new(case);
            let chain_id = ChainId(Digest(choices.bytes()));
            let (nonce, valid_until) = (choices.number(), choices.number());
            let sender = hufu_crypto::PublicKey(choices.bytes());
            let mut builder = TransactionBuilder::new(chain_id, sender, nonce, valid_until);
            let mut written = Vec::new();
            for _ in 0..=choices.below(8) {
                builder = add_operation(&mut choices, &builder, &mut written);
            }
            let signature = Signature(choices.bytes());
            let made = TransactionBuilder::join(builder.unsigned(), &signature);
            let made = made.unwrap_or_else(|error| panic!("case {case}: {error}"));
            let view = TransactionView::parse(made.bytes()).unwrap();
            let read: Vec<String> =
                view.operations().map(|operation| format!("{operation:?}")).collect();
            assert_eq!(read, written, "case {case}");
            assert_eq!(usize::from(view.operations_count()), written.len());
            let header = view.header();
            assert_eq!((header.nonce.get(), header.valid_until.get()), (nonce, valid_until));
            assert_eq!((header.sender, header.prefix.chain_id), (sender, chain_id));
            assert_eq!((view.signature(), made.signature()), (&signature, &signature));
            assert_eq!(recode_transaction(made.bytes()).as_deref(), Some(made.bytes()));
        }
    }

    /// Every limit of the operations, one step beyond it.
    #[test]
    fn values_out_of_range_are_refused() {
        let mut choices = Choices::new(1);
        let (asset, account) = (asset(&mut choices), address(&mut choices));
        let (zero, most) = (U128::new(0), U128::new(u128::MAX));
        let good = leg(&mut choices);
        let digest = Digest::ZERO;
        let create = |asset, decimals, cap| CreateAssetBody::new(asset, account, decimals, cap);
        let supply = |asset, amount| SupplyBody { asset, account, amount };
        let grant = |asset, limit| GrantMandateBody {
            agent: account,
            asset,
            limit,
            expires_at: U64::new(0),
        };
        let lower = AssetCode(*b"usd\0\0\0\0\0\0\0\0\0\0\0\0\0");
        let bad: &[(&str, Operation<'_>)] = &[
            ("decimals", Operation::CreateAsset(&create(asset, 19, 1))),
            ("supply cap", Operation::CreateAsset(&create(asset, 0, 0))),
            ("asset created", Operation::CreateAsset(&create(lower, 0, 1))),
            ("amount issued", Operation::IssueAsset(&supply(asset, zero))),
            ("asset issued", Operation::IssueAsset(&supply(lower, most))),
            ("amount redeemed", Operation::RedeemAsset(&supply(asset, zero))),
            ("asset redeemed", Operation::RedeemAsset(&supply(AssetCode([0; 16]), most))),
            ("amount moved", Operation::Transfer(&Leg { amount: zero, ..good })),
            ("asset moved", Operation::Transfer(&Leg { asset: lower, ..good })),
            ("to itself", Operation::Transfer(&Leg { to: good.from, ..good })),
            ("no legs", Operation::Settle(&[])),
            ("too many legs", Operation::Settle(&[good; 257])),
            ("a bad leg", Operation::Settle(&[good, Leg { amount: zero, ..good }])),
            ("limit", Operation::GrantMandate(&grant(asset, zero))),
            ("asset granted", Operation::GrantMandate(&grant(lower, most))),
            (
                "asset revoked",
                Operation::RevokeMandate(&RevokeMandateBody { agent: account, asset: lower }),
            ),
            ("memo", Operation::Notarise { digest: &digest, memo: &[0; 257] }),
            ("asset frozen", Operation::FreezeHolding(&HoldingBody { asset: lower, account })),
            ("asset unfrozen", Operation::UnfreezeHolding(&HoldingBody { asset: lower, account })),
        ];
        let sender = hufu_crypto::PublicKey([1; 64]);
        let join = |operations: &[Operation<'_>]| {
            let mut builder = TransactionBuilder::new(ChainId::ZERO, sender, 1, 1);
            for operation in operations {
                builder = builder.operation(*operation);
            }
            TransactionBuilder::join(builder.unsigned(), &Signature([0; 64]))
        };
        for (name, operation) in bad {
            assert!(join(&[*operation]).is_err(), "{name}");
        }
        let ends: &[Operation<'_>] = &[
            Operation::CreateAsset(&create(asset, 18, u128::MAX)),
            Operation::Settle(&[good; 256]),
            Operation::Notarise { digest: &digest, memo: &[0; 256] },
        ];
        for operation in ends {
            assert!(join(&[*operation]).is_ok(), "{operation:?}");
        }
        assert!(join(&[]).is_err(), "a transaction without operations");
        assert!(join(&[Operation::Transfer(&good); 1_024]).is_ok());
        assert!(join(&[Operation::Transfer(&good); 1_025]).is_err(), "too many operations");
        assert!(join(&[Operation::Settle(&[good; 256]); 8]).is_err(), "too large a transaction");
    }

    /// Adds an operation of any kind with any canonical values, and notes how it reads.
    fn add_operation(
        choices: &mut Choices,
        builder: &TransactionBuilder,
        written: &mut Vec<String>,
    ) -> TransactionBuilder {
        let mut add = |operation: Operation<'_>| {
            written.push(format!("{operation:?}"));
            builder.clone().operation(operation)
        };
        match choices.below(12) {
            0 => add(Operation::OpenAccount(&AccountBody { address: address(choices) })),
            1 => add(Operation::CloseAccount(&AccountBody { address: address(choices) })),
            2 => {
                let (asset, authority) = (asset(choices), address(choices));
                let decimals = u8::try_from(choices.below(19)).unwrap();
                let cap = amount(choices).get();
                add(Operation::CreateAsset(&CreateAssetBody::new(asset, authority, decimals, cap)))
            }
            3 => add(Operation::IssueAsset(&supply(choices))),
            4 => add(Operation::RedeemAsset(&supply(choices))),
            5 => add(Operation::Transfer(&leg(choices))),
            6 => {
                let legs: Vec<Leg> = (0..=choices.below(5)).map(|_| leg(choices)).collect();
                add(Operation::Settle(&legs))
            }
            7 => add(Operation::GrantMandate(&GrantMandateBody {
                agent: address(choices),
                asset: asset(choices),
                limit: amount(choices),
                expires_at: U64::new(choices.number()),
            })),
            8 => {
                let (agent, asset) = (address(choices), asset(choices));
                add(Operation::RevokeMandate(&RevokeMandateBody { agent, asset }))
            }
            9 => {
                let (digest, memo) = (Digest(choices.bytes()), choices.bytes::<256>());
                let memo = &memo[..choices.below(257)];
                add(Operation::Notarise { digest: &digest, memo })
            }
            10 => add(Operation::FreezeHolding(&holding(choices))),
            _ => add(Operation::UnfreezeHolding(&holding(choices))),
        }
    }

    fn address(choices: &mut Choices) -> Address {
        Address(choices.bytes())
    }

    fn asset(choices: &mut Choices) -> AssetCode {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-";
        let mut code = [0; 16];
        let length = choices.below(16) + 1;
        code[..length].fill_with(|| LETTERS[choices.below(LETTERS.len())]);
        AssetCode(code)
    }

    fn amount(choices: &mut Choices) -> U128 {
        let amount = u128::from_le_bytes(choices.bytes()) >> choices.below(128);
        U128::new(amount.max(1))
    }

    fn supply(choices: &mut Choices) -> SupplyBody {
        SupplyBody { asset: asset(choices), account: address(choices), amount: amount(choices) }
    }

    fn leg(choices: &mut Choices) -> Leg {
        let (from, to) = (address(choices), address(choices));
        Leg { asset: asset(choices), from, to, amount: amount(choices) }
    }

    fn holding(choices: &mut Choices) -> HoldingBody {
        HoldingBody { asset: asset(choices), account: address(choices) }
    }

    /// Any bytes are refused or canonical, and none panics: random ones, and good ones with edits.
    #[test]
    fn no_bytes_panic_a_decoder_or_have_two_encodings() {
        let messages = messages(&Chain::new());
        for case in cases(20_000) {
            let mut choices = Choices::new(case);
            let mut bytes = messages[choices.below(messages.len())].clone();
            for _ in 0..=choices.below(4) {
                edit(&mut choices, &mut bytes, &messages);
            }
            for (name, recode) in DECODERS {
                let again = recode(&bytes);
                assert!(again.is_none_or(|again| again == bytes), "{name}, case {case}");
            }
        }
    }

    fn edit(choices: &mut Choices, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
        let at = choices.below(bytes.len() + 1);
        let end = at + choices.below(bytes.len() - at + 1);
        match choices.below(6) {
            0 => drop(bytes.drain(at..end.min(at + 70))),
            1 => bytes.insert(at, choices.bytes::<1>()[0]),
            2 => {
                let copied = bytes[at..end].to_vec();
                bytes.splice(at..at, copied);
            }
            3 => {
                let other = &others[choices.below(others.len())];
                let from = choices.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            4 => {
                let value = [0, 1, 0x7f, 0x80, 0xff][choices.below(5)];
                bytes[at..end.min(at + 4)].fill(value);
            }
            _ => {
                for byte in &mut bytes[at..end] {
                    *byte = choices.bytes::<1>()[0];
                }
            }
        }
    }

    /// Verifies a proof; certificates equal to one of the chain's own, which one test verifies, are
    /// taken as verified, so that thousands of damaged proofs can be tried.
    fn prove(chain: &Chain, proof: &ReceiptProof) -> Result<Strength, ProofError> {
        let provider = software_provider();
        let (id, validators) = (chain.id(), &chain.genesis.validators);
        proof.verify_with(&chain.genesis, &mut |certificate| {
            if chain.heights.iter().any(|height| height.certificate == *certificate) {
                return Ok(());
            }
            certificate.verify(id, validators, &*provider.verifier)
        })
    }

    #[test]
    fn every_receipt_of_a_chain_is_proven() {
        let chain = Chain::new();
        let provider = software_provider();
        for (height, count) in [(1, 5), (2, 1)] {
            for index in 0..count {
                for strength in [Strength::Committed, Strength::Certified] {
                    let proof = chain.proof(height, index, strength);
                    let bytes = proof.to_bytes();
                    let read = ReceiptProof::parse(&bytes).unwrap();
                    assert_eq!(read, proof);
                    assert_eq!(read.verify(&chain.genesis, &*provider.verifier), Ok(strength));
                }
            }
        }
    }

    /// The one thing a committed receipt does not prove is the result: code and failed operation.
    /// Its index is bound to the place in the batch only together with the count of transactions
    /// before, which no single bit changes. A certified receipt proves every bit.
    #[test]
    fn any_flipped_bit_of_a_proof_is_refused() {
        let chain = Chain::new();
        let head = chain.proof(1, 0, Strength::Committed);
        let receipt_at = head.to_bytes().len() - body_size(&head);
        let result = receipt_at + 36 + 8 + 4..receipt_at + 36 + 8 + 4 + 4;
        // A success in the first batch and a failure in the second.
        for index in [0, 4] {
            unproven(&chain, &chain.proof(1, index, Strength::Committed), &result);
            unproven(&chain, &chain.proof(1, index, Strength::Certified), &(0..0));
        }
        unproven(&chain, &chain.proof(2, 0, Strength::Certified), &(0..0));
    }

    /// Size of everything behind the proof's own header.
    fn body_size(proof: &ReceiptProof) -> usize {
        let mut certificate = Vec::new();
        proof.certificate.write(&mut certificate);
        let paths = 2 * 2 + 32 * (proof.batch_path.len() + proof.block_path.len());
        size_of::<Receipt>()
            + Signature::SIZE
            + size_of_val(&proof.header)
            + certificate.len()
            + size_of_val(&proof.batch)
            + paths
    }

    /// No flip is proven but some of the bytes in `except`.
    fn unproven(chain: &Chain, proof: &ReceiptProof, except: &Range<usize>) {
        let mut proven = Vec::new();
        for (at, flipped) in flips(&proof.to_bytes()) {
            let Ok(read) = ReceiptProof::parse(&flipped) else { continue };
            if prove(chain, &read).is_ok() {
                assert!(except.contains(&at), "byte {at} is not proven");
                proven.push(at);
            }
        }
        let (index, strength) = (proof.receipt.index.get(), proof.strength());
        assert_eq!(proven.is_empty(), except.is_empty(), "{index} {strength:?}: {proven:?}");
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let chain = Chain::new();
        let good = chain.proof(1, 3, Strength::Certified);
        let other = chain.proof(2, 0, Strength::Certified);
        let refused = |change: &dyn Fn(&mut ReceiptProof)| {
            let mut proof = good.clone();
            change(&mut proof);
            prove(&chain, &proof).unwrap_err()
        };
        let unrelated = |what| ProofError::Unrelated { what };
        assert_eq!(refused(&|proof| proof.header = other.header), unrelated("block header"));
        assert_eq!(refused(&|proof| proof.signature = other.signature), unrelated("signature"));
        let certificate = other.certificate.clone();
        assert_eq!(
            refused(&|proof| proof.certificate = certificate.clone()),
            unrelated("certificate")
        );
        assert_eq!(
            refused(&|proof| proof.certified = other.certified.clone()),
            unrelated("certifying header")
        );
        assert_eq!(refused(&|proof| proof.transactions_before = 4), unrelated("batch"));
        let wrong = ProofError::PathWrong { root: "transactions root" };
        assert_eq!(refused(&|proof| proof.block_path.clear()), wrong);
        assert_eq!(refused(&|proof| proof.batch_index = 0), wrong);
        let wrong = ProofError::PathWrong { root: "batch's transactions" };
        assert_eq!(refused(&|proof| proof.batch = other.batch), wrong);
        assert_eq!(refused(&|proof| proof.batch_path.clear()), wrong);
        let wrong = ProofError::PathWrong { root: "receipts root" };
        let drop_path = |proof: &mut ReceiptProof| {
            proof.certified.as_mut().unwrap().path.pop();
        };
        assert_eq!(refused(&drop_path), wrong);
    }

    #[test]
    fn certificates_without_a_quorum_are_refused() {
        let chain = Chain::new();
        let provider = software_provider();
        let (id, validators) = (chain.id(), &chain.genesis.validators);
        let good = chain.heights[0].certificate.clone();
        let verify = |certificate: &CommitCertificate| {
            certificate.verify(id, validators, &*provider.verifier)
        };
        assert_eq!(verify(&good), Ok(()));
        let one = CommitCertificate { signatures: good.signatures[..1].to_vec(), ..good.clone() };
        let missing = CertificateError::QuorumMissing { height: 1, found: 1, total: 2 };
        assert_eq!(verify(&one), Err(missing));
        let twice = CommitCertificate { signatures: vec![good.signatures[0]; 2], ..good.clone() };
        assert_eq!(verify(&twice), Err(CertificateError::OrderWrong { height: 1 }));
        let mut swapped = good.clone();
        swapped.signatures.reverse();
        assert_eq!(verify(&swapped), Err(CertificateError::OrderWrong { height: 1 }));
        let other = CommitCertificate { round: 3, ..good.clone() };
        assert!(matches!(verify(&other), Err(CertificateError::SignatureInvalid { .. })));
        let mut stranger = good.clone();
        stranger.signatures[1].validator = Address([0xff; 20]);
        assert!(matches!(verify(&stranger), Err(CertificateError::ValidatorUnknown { .. })));
        let elsewhere = good.verify(ChainId(Digest([1; 32])), validators, &*provider.verifier);
        assert!(matches!(elsewhere, Err(CertificateError::SignatureInvalid { .. })));
    }

    /// Verifies an account; the chain's own certificate is taken as verified, as in [`prove`].
    fn prove_account(
        chain: &Chain,
        proof: &AccountProof,
        known: &CommitCertificate,
    ) -> Result<ProvenAccount, AccountProofError> {
        let provider = software_provider();
        let (id, validators) = (chain.id(), &chain.genesis.validators);
        proof.verify_with(&chain.genesis, &mut |certificate| match certificate {
            same if same == known => Ok(()),
            other => other.verify(id, validators, &*provider.verifier),
        })
    }

    #[test]
    fn an_account_is_proven_there_or_not_there_and_any_flipped_bit_is_refused() {
        let chain = Chain::new();
        let accounts = Accounts::new(&chain);
        for (address, lists) in [(accounts::PRESENT, Some((2, 1))), (accounts::ABSENT, None)] {
            let proof = accounts.proof(&chain, address);
            let proven = proof.verify(&chain.genesis, &*software_provider().verifier).unwrap();
            assert_eq!((proven.height, proven.address), (4, address));
            let found = proven.account.map(|it| (it.holdings.len(), it.mandates.len()));
            assert_eq!(found, lists);
            for (at, flipped) in flips(&proof.to_bytes()) {
                let Ok(read) = AccountProof::parse(&flipped) else { continue };
                let refused = prove_account(&chain, &read, &proof.certificate);
                assert!(refused.is_err(), "byte {at} is not proven");
            }
        }
    }

    #[test]
    fn accounts_of_other_parts_or_with_less_or_more_are_refused() {
        let chain = Chain::new();
        let accounts = Accounts::new(&chain);
        let good = accounts.proof(&chain, accounts::PRESENT);
        let refused = |change: &dyn Fn(&mut AccountProof)| {
            let mut proof = good.clone();
            change(&mut proof);
            let read = AccountProof::parse(&proof.to_bytes()).unwrap();
            prove_account(&chain, &read, &good.certificate).unwrap_err()
        };
        let unrelated = |what| AccountProofError::Unrelated { what };
        let incomplete =
            |what, counted, found| AccountProofError::Incomplete { what, counted, found };
        let drop_at = |at: usize| refused(&move |proof| drop(proof.entries.remove(at)));
        assert_eq!(drop_at(0), unrelated("entry"));
        assert_eq!(drop_at(1), incomplete("holdings", 2, 1));
        assert_eq!(drop_at(3), incomplete("mandates", 1, 0));
        assert_eq!(refused(&|proof| proof.entries.swap(1, 2)), unrelated("entry"));
        let twice = refused(&|proof| proof.entries.insert(1, proof.entries[1].clone()));
        assert_eq!(twice, unrelated("entry"));
        assert_eq!(refused(&|proof| proof.address = accounts::ABSENT), unrelated("entry"));
        // Proven entries of others do not fill the count.
        let foreign = StateKey::Holding(Address([2; 20]), AssetCode::new("GOLD").unwrap());
        let foreign = accounts.entry(foreign);
        assert_eq!(refused(&|proof| proof.entries[2] = foreign.clone()), unrelated("entry"));
        // Nor does a holding that is proven not to be there.
        let nothing = StateKey::Holding(accounts::PRESENT, AssetCode::new("CORN").unwrap());
        let nothing = accounts.entry(nothing);
        assert_eq!(nothing.value, None);
        assert_eq!(refused(&|proof| proof.entries[2] = nothing.clone()), unrelated("entry"));
        let richer = refused(&|proof| {
            let holding = StateValue::Holding(Holding { balance: 8, frozen: true });
            proof.entries[1].value = Some(holding);
        });
        assert!(matches!(richer, AccountProofError::State { .. }), "{richer:?}");
        let last = &chain.heights[2];
        let (header, certificate) = (*last.block.header(), last.certificate.clone());
        assert_eq!(refused(&|proof| proof.header = header), unrelated("certificate"));
        let moved = refused(&|proof| {
            (proof.header, proof.certificate) = (header, certificate.clone());
        });
        assert!(matches!(moved, AccountProofError::State { .. }), "{moved:?}");
        let late = refused(&|proof| {
            proof.header.executed_height = U64::new(3);
            proof.certificate = chain.certificate(&proof.header);
        });
        assert_eq!(late, unrelated("header"), "the lag is the genesis's");
        let alone = refused(&|proof| proof.certificate.signatures.truncate(1));
        let missing = CertificateError::QuorumMissing { height: 5, found: 1, total: 2 };
        assert_eq!(alone, AccountProofError::Certificate(missing));
    }

    #[test]
    fn another_genesis_proves_nothing() {
        let chain = Chain::new();
        let mut other = chain.genesis.clone();
        other.time_millis += 1;
        let proof = chain.proof(1, 0, Strength::Certified);
        let found = proof.verify(&other, &*software_provider().verifier);
        let (found_id, expected) = (chain.id(), other.chain_id());
        assert_eq!(found, Err(ProofError::WrongChain { found: found_id, expected }));
        let account = Accounts::new(&chain).proof(&chain, accounts::PRESENT);
        let found = account.verify(&other, &*software_provider().verifier);
        assert_eq!(found, Err(AccountProofError::WrongChain { found: found_id, expected }));
    }
}
