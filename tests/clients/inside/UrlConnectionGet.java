import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.URL;

public class UrlConnectionGet {
    static String get(String url) throws IOException {
        HttpURLConnection connection = (HttpURLConnection) new URL(url).openConnection();
        int status = connection.getResponseCode();
        try (InputStream body = status < 400 ? connection.getInputStream() : connection.getErrorStream()) {
            return status + " " + new String(body.readAllBytes());
        }
    }

    public static void main(String[] args) throws IOException {
        for (String scheme : new String[] {"https", "http"}) {
            System.out.println("allowed " + get(scheme + "://api.bed.test/echo?m=" + args[0]));
        }
        System.out.println("secret " + get("https://api.bed.test/secret/x"));
        System.out.println("plain secret " + get("http://api.bed.test/secret/x"));
        try {
            System.out.println("reached " + get("https://evil.bed.test/"));
        } catch (IOException error) {
            System.out.println("evil " + error);
        }
    }
}
