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
// # Authorization
//
// An Authorizer stands before an engine of ours, on every server, and lets each
// subject do what cluster.Allowed says, at the pace that its Quota allows. It
// needs no roles in the store: a node's rights follow from the records about it,
// so that a node is let in, put into a VPC or removed by the transaction that
// says so, and what it has open ends when that is heard. A server's certificate
// opens everything, whatever the records say.
//
// An external etcd has no Authorizer before it. There, Roles keeps etcd's own users
// and roles as the records call for (cluster.AccountsOf), which tells less apart;
// who joins is answered once etcd knows it (External), and a name is not given
// twice, since etcd takes each certificate of the name.
//
// Certificates are read from their files for each connection, so that new ones
// serve without a restart.
package membership
