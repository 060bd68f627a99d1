// Package document is what operators keep of a cluster in files: YAML documents
// that say which objects there are to be, and what differs from what there is.
//
// A file is a stream of documents, each an object or a list of objects. An
// object has a kind and a name, and beside them the fields of its spec under
// the names that the record has:
//
//	kind: VPC
//	name: vpc1
//	members: [dc=hetzner, jhoster1]
//	mtu: 1400
//	---
//	kind: Endpoint
//	name: web1
//	vpc: vpc1
//	ip: [10.10.11.5, auto]
//
// An endpoint is a document of its own and not a part of its VPC's: a VPC may have
// thousands, kept in other files and by others. A document states all of an object:
// a field that it leaves out has its default. One table for each kind (vpcFields,
// endpointFields) says what fields there are; parsing, formatting, comparing and
// the JSON schema all follow from it.
//
// Everything here is pure: text to specs (Parse), specs to text (Format),
// specs to a plan (Plan). Whether the cluster can carry a plan, and writing it,
// is the caller's. Parse tells all mistakes of a file at once, each with line
// and column, and gives nothing of a file that has one. What Format writes,
// Parse reads as the same spec.
package document
