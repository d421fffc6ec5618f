// Package calls has the table of the calls between nodes: what each is called, who serves it, what it costs there, and
// whether a client may make it. Whoever dispatches, vets or refuses a call goes by this table, and has a function per
// kind where it has something to do; its tests hold it to the table.
//
// A new call is a field of pb.PeerRequest, a Kind, a row and a case of Of. The tests here fail while one of them is
// missing, and where nobody has decided whether a client may make it.
package calls
