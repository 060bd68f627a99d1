// Package membership is how machines and people get into a cluster, and out of
// it: the cluster's certificate authority, tokens, and the service that lets a
// joiner in.
//
// # Trust
//
// A cluster has one CA. Every certificate it signs speaks for one
// cluster.Subject, which is the certificate's common name. Servers may serve and
// dial, nodes and users only dial: a node's certificate that serves one of our
// ports is refused by every TLS client, ours or not, since it is not for
// servers. Our own clients want a server: subject besides.
//
// A joiner has nothing but a Token, which names the CA by its hash (Pin). It
// dials the join service, refuses any server that is not certified by that very
// CA, and only then sends the token's secret and a request for a certificate of
// a key that it made itself and that never leaves it. The server finds the
// token's record, which holds a hash of the secret, takes one use of it in the
// transaction that creates the node's record, and signs.
//
// A joiner that names its underlay addresses is asked back there (package reach),
// by the key that it asks a certificate of, before its node's record is made: a
// host that others cannot reach learns so while somebody looks, and an address
// that another node has is refused with that node's name. It is a service to the
// operator, no guard: the controller asks again before peers use an address.
// Versions more than one minor number apart (Compatible) are refused. Both are
// looked at only for who has a good token.
//
// # Another CA
//
// One CA takes the place of another while all runs. Config.Trust says how far that
// is: which CAs are trusted, first the one that signs. Everybody keeps them in that
// order in ca.crt, servers their keys, too, which they have from each other by
// Authority; a key that signs is always the one of the first certificate. Each phase
// ends when all who are waited for (StillOld) have said that they are in it: nodes to
// the join service (Trusts), which sees itself who certified them, servers in the
// store.
//
//   - trust: all learn the new CA. The old one signs.
//   - renew: the new one signs, and all whose certificate is Old get another.
//   - drop: all forget the old one, whose certificates open nothing then.
//
// Our own listeners and clients read the CAs for each connection. etcd reads them
// when it starts, and nothing can change them in it: a server whose store has loaded
// others starts the store anew, in the same process, when it is its Turn, one server
// at a time; so does one whose store is to run with other timings (Config.Timings).
// Whose turn it is they decide by each other's records (Servers.Wait): one writes that
// it begins anew, under guard of all that it has read, and that it does not any more
// 4 s after it is back, when its clients may be, too. No write is refused: one that
// leads has the others Hold still, hands over, and then sends its clients elsewhere, as
// it does when its process is told to stop. Watches go on at another server from the
// revision where they were. An
// endorsement of the new CA by the old one alone would not do: it cannot make an etcd
// forget the old one, and CAs were made at first with no room for another below. It
// is shown by servers in the phase renew all the same, for who was away in the phase
// before: our clients follow it (endorsed).
//
// Who is off all the time is left behind when a person says so, and joins again by a
// token, with the key and the record that it has. A token names the CA that signed
// when it was made, and no other. A restored store has no Trust: hosts keep the CAs
// that they have; a record that names none of them is not followed.
//
// An external etcd is told by its operator whom to trust: there it cannot be done.
//
// # Authorization
//
// An Authorizer stands before an engine of ours, on every server, and lets each
// subject do what cluster.Allowed says, at the pace that its Quota allows. It
// needs no roles in the store: a node's rights follow from the records about it,
// so that a node is let in, put into a VPC or removed by the transaction that
// says so, and what it has open ends when that is heard. A server's certificate
// opens everything while the server's record names its key.
//
// # Servers
//
// A token of the role server or witness makes a server: the join writes its record
// and certifies its key; the CA's key it gets by Authority, when it shows that
// certificate, and a witness never. When it starts and its store is empty, it has
// itself made a learner of the store (Serve), as often as it takes, and begins with
// what the others have. The Keeper beside the store's leader does, one step at a
// time, what package voters decides: who has caught up gets a vote when that makes
// the number odd, who is silent for long is replaced, whose node was removed leaves
// the store, never below a majority that answers. A server that was taken out of
// the store though its record stands hears so from the others (StillServes),
// empties its store and comes back as a learner. On the port where servers speak among themselves there is nobody to ask
// what may be done: it opens to certificates with PeerName, which only servers
// have, and not to those in the RevocationList, which follows from Node.Revoked. A
// connection that is open there when its server is removed lasts until it breaks.
//
// # History
//
// An Authorizer also writes the cluster's history (cluster.Event). A request that
// changes records of what people want (cluster.Intent) is carried out with an event
// beside it in the same transaction, each branch of which has its own: who was
// refused by a guard leaves no trace, and no crash comes between a change and its
// event, since both are one revision. A plain put or deletion, such as etcdctl's,
// is made such a transaction. The answer is the one that the request would have had
// by itself. What was there before is read from this very server, without a round
// trip; a guard that names another revision is believed instead. A change that
// brings its own event gets no second one: so do joins, in the joiner's name. The
// history has no clock but the servers'; its order is that of the revisions.
//
//   - A deletion still works when the store is out of space; there is no event
//     then, only the line in the log.
//   - A transaction without a write of its own that deletes, without a guard, more
//     than eight records that may not be there makes an event though none was.
//   - Nodes can do nothing that is an event, but join, and viewers nothing at all.
//     What admins and operators do is not bounded here: the controller, which
//     trims the history, takes from whoever filled it.
//   - An external etcd has no Authorizer before it: there, joins and what the
//     controller tells are recorded, but not what people do.
//
// An external etcd has no Authorizer before it. There, Roles keeps etcd's own users
// and roles as the records call for (cluster.AccountsOf), which tells less apart;
// who joins is answered once etcd knows it (External), and a name is not given
// twice, since etcd takes each certificate of the name.
//
// Certificates are read from their files for each connection, so that new ones
// serve without a restart.
package membership
