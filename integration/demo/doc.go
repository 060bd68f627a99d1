// Package demo plays the article's network on a lab, start to end: what
// `meshvpc lab demo` shows, and the first of the end-to-end tests.
//
// Every step types the commands that a user would type, on the host where they
// would be typed, and then measures; a step that did not hold fails the demo,
// which goes on to the end all the same where it can.
package demo
