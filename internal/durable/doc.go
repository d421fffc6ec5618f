// Package durable replaces files so that a crash at any moment leaves the old one or the new one,
// whole.
//
// It owns the order of the steps: write beside it, sync the file, rename, sync the directory. What
// is in a file, and whether it is damaged, is its owner's business; CRC32C is what tells. A name that ends in .tmp
// beside a file of ours is what a crash left behind and means nothing.
package durable
