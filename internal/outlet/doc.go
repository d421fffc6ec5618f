// Package outlet is the end of links that has feeds: of a node's for ranges that it holds, and of a gateway's for ranges that it has the feeds of itself. It
// drives link.Source, and knows neither who holds what nor where feeds come from.
//
// It owns: how links are served and how many there are, who is told that this process is about to stop, and by which way a gateway's feeds come.
package outlet
